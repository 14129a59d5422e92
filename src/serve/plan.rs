//! What a request asks for, within bounds, and how its work is cut. Pure.

use crate::digest::{BlockSpan, node_leaves};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, GIB, MIB};
use crate::wire::{
    BLOCK_MESSAGE_BYTES_MAX, HASHES_BYTES_MAX, HashRun, Look, RUNS_BYTES_MAX, TREE_BYTES_MAX,
};

/// Largest step in bytes that is hashed.
pub const STEP_BYTES_MAX: u64 = 4 * GIB;

/// How many bytes of the device a thread takes on at a time: little enough that all cores work
/// on one request, so much that the threads hardly ever meet.
const UNIT_BYTES: u64 = MIB;

/// Most bytes of hashes that are held for a request until they are folded, all its runs together.
const PART_BYTES_MAX: u64 = 128 * 1024;

/// The work of one request for hashes: `nodes` hashes of `level`, to be folded by `fold_levels`,
/// computed `unit_nodes` at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HashPlan {
    start: u64,
    step: u64,
    nodes: u64,
    unit_nodes: u64,
    /// Whether the hashes are a tree's, whose leaves may have another hash than blocks.
    pub(super) of_tree: bool,
    /// Level of the nodes that a unit computes.
    pub(super) level: u8,
    /// How many levels the request is above them.
    pub(super) fold_levels: u8,
}

impl HashPlan {
    /// The plan for `gethashes`.
    ///
    /// # Errors
    /// `Kind::Protocol` when a number is out of bounds or the hashes do not fit an answer.
    pub(super) fn hashes(start: u64, step: u64, n: u64, hash_len: usize) -> Result<Self> {
        let blocks = BlockSpan::new(start, step, n)?;
        Self::new(blocks, None, hash_len, HASHES_BYTES_MAX, PART_BYTES_MAX)
    }

    /// The plan for `gettree`.
    ///
    /// # Errors
    /// As [`HashPlan::hashes`].
    pub(super) fn tree(look: Look, hash_len: usize) -> Result<Self> {
        Self::tree_of_part(look, hash_len, PART_BYTES_MAX)
    }

    /// As [`HashPlan::tree`], holding at most `part_bytes` until they are folded, or what is
    /// asked for where that is more.
    fn tree_of_part(look: Look, hash_len: usize, part_bytes: u64) -> Result<Self> {
        let Look { start, step, n, level } = look;
        let leaves = n.checked_mul(node_leaves(level)).ok_or_else(|| {
            let what = format!("the client asked for too much: {n} nodes of level {level}");
            Error::new(Kind::Protocol, what).with_offset(start)
        })?;
        let leaves = BlockSpan::new(start, step, leaves)?;
        Self::new(leaves, Some(level), hash_len, TREE_BYTES_MAX, part_bytes)
    }

    /// `tree_level`: `None` for the hashes of blocks.
    fn new(
        leaves: BlockSpan,
        tree_level: Option<u8>,
        hash_len: usize,
        answer_max: usize,
        part_bytes: u64,
    ) -> Result<Self> {
        let request_level = tree_level.unwrap_or(0);
        let (step, hash_len) = (leaves.step(), hash_len as u64);
        if step > STEP_BYTES_MAX {
            let what = format!(
                "the client asked for a step of {step} bytes, at most {STEP_BYTES_MAX} are allowed"
            );
            return Err(Error::new(Kind::Protocol, what).with_offset(leaves.start()));
        }
        let n = leaves.n() / node_leaves(request_level);
        if n > answer_max as u64 / hash_len {
            let what = format!(
                "the client asked for {n} hashes, at most {} fit an answer",
                answer_max as u64 / hash_len
            );
            return Err(Error::new(Kind::Protocol, what).with_offset(leaves.start()));
        }
        // As coarse as a unit of work allows, and coarser where there would be too many parts;
        // step is at most 2^32 and a node has at most 2^28 leaves, so nothing overflows.
        let nodes_of = |level| leaves.n() / node_leaves(level);
        let too_fine = |level| {
            step * node_leaves(level + 1) <= UNIT_BYTES || nodes_of(level) * hash_len > part_bytes
        };
        let mut level = 0;
        while level < request_level && too_fine(level) {
            level += 1;
        }
        Ok(Self {
            start: leaves.start(),
            step,
            nodes: nodes_of(level),
            unit_nodes: (UNIT_BYTES / (step * node_leaves(level))).max(1),
            of_tree: tree_level.is_some(),
            level,
            fold_levels: request_level - level,
        })
    }

    /// How many units of work.
    pub(super) fn units(&self) -> u64 {
        self.nodes.div_ceil(self.unit_nodes)
    }

    /// How many hashes all units make.
    pub(super) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// The step of the leaves.
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// The nodes of one unit, as blocks of a node's length; `i` is below [`HashPlan::units`].
    pub(super) fn unit(&self, i: u64) -> BlockSpan {
        let from = i * self.unit_nodes;
        self.as_blocks().part(from, self.nodes.min(from + self.unit_nodes))
    }

    /// Which of all nodes the unit's first is.
    pub(super) fn unit_offset(&self, i: u64) -> u64 {
        i * self.unit_nodes
    }

    fn as_blocks(&self) -> BlockSpan {
        BlockSpan::new(self.start, self.step * node_leaves(self.level), self.nodes)
            .expect("the same bytes as the leaves that were checked")
    }
}

/// The hashes of one answer: those of one plan after the other, at least one.
pub(super) struct HashWork {
    plans: Vec<Placed>,
    units: u64,
    nodes: u64,
}

/// A plan, and how many units and nodes stand before its own.
struct Placed {
    plan: HashPlan,
    units_before: u64,
    nodes_before: u64,
}

impl HashWork {
    fn new(of: impl IntoIterator<Item = HashPlan>) -> Self {
        let (mut plans, mut units, mut nodes) = (Vec::new(), 0, 0);
        for plan in of {
            let placed = Placed { plan, units_before: units, nodes_before: nodes };
            units += plan.units();
            nodes += plan.nodes();
            plans.push(placed);
        }
        Self { plans, units, nodes }
    }

    /// The work for `getruns`; `level` is at most 7, `None` for the hashes of blocks.
    ///
    /// # Errors
    /// As [`HashPlan::hashes`].
    pub(super) fn runs(
        step: u64,
        level: Option<u8>,
        runs: &[HashRun],
        hash_len: usize,
    ) -> Result<Self> {
        let n: u64 = runs.iter().map(|run| u64::from(run.n)).sum();
        let most = (RUNS_BYTES_MAX / hash_len) as u64;
        if n > most {
            let what =
                format!("the client asked for {n} hashes in runs, at most {most} fit an answer");
            return Err(Error::new(Kind::Protocol, what));
        }
        let part_bytes = PART_BYTES_MAX / runs.len().max(1) as u64;
        let plan = |run: &HashRun| match level {
            Some(level) => {
                let n = run.n.into();
                HashPlan::tree_of_part(
                    Look { start: run.start, step, n, level },
                    hash_len,
                    part_bytes,
                )
            }
            None => HashPlan::hashes(run.start, step, run.n.into(), hash_len),
        };
        Ok(Self::new(runs.iter().map(plan).collect::<Result<Vec<_>>>()?))
    }

    /// How many units of work.
    pub(super) fn units(&self) -> u64 {
        self.units
    }

    /// How many hashes all units make.
    pub(super) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// The first plan. All of them make hashes of one kind.
    pub(super) fn first(&self) -> &HashPlan {
        &self.plans[0].plan
    }

    /// All plans, in the order of their answers.
    pub(super) fn plans(&self) -> impl Iterator<Item = &HashPlan> {
        self.plans.iter().map(|placed| &placed.plan)
    }

    /// The plan of unit `i`, which unit of that it is, and how many nodes come before its first;
    /// `i` is below [`HashWork::units`].
    pub(super) fn unit(&self, i: u64) -> (&HashPlan, u64, u64) {
        let behind = self.plans.partition_point(|placed| placed.units_before <= i);
        let Placed { plan, units_before, nodes_before } = &self.plans[behind - 1];
        let unit = i - units_before;
        (plan, unit, nodes_before + plan.unit_offset(unit))
    }
}

impl From<HashPlan> for HashWork {
    fn from(plan: HashPlan) -> Self {
        Self::new([plan])
    }
}

/// The bytes that a `getblock` asks for.
///
/// # Errors
/// `Kind::Protocol` when they do not fit an answer or do not lie inside the device.
pub(super) fn block_range(offset: u64, len: u64, device_bytes: u64) -> Result<ByteRange> {
    if len > BLOCK_MESSAGE_BYTES_MAX as u64 {
        let what = format!(
            "the client asked for a block of {len} bytes, at most {BLOCK_MESSAGE_BYTES_MAX} fit"
        );
        return Err(Error::new(Kind::Protocol, what).with_offset(offset));
    }
    match ByteRange::checked_at(offset, len) {
        Some(range) if range.end <= device_bytes => Ok(range),
        _ => {
            let what = format!(
                "the client asked for a block of {len} bytes outside the device of {device_bytes} bytes"
            );
            Err(Error::new(Kind::Protocol, what).with_offset(offset))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::KIB;

    fn tree(start: u64, step: u64, n: u64, level: u8, hash_len: usize) -> Result<HashPlan> {
        HashPlan::tree(Look { start, step, n, level }, hash_len)
    }

    fn is_refused(plan: Result<HashPlan>) -> bool {
        plan.is_err_and(|err| err.kind() == Kind::Protocol)
    }

    #[test]
    fn numbers_at_the_limit_are_taken_and_one_more_is_refused() {
        let most = (HASHES_BYTES_MAX / 16) as u64;
        assert!(HashPlan::hashes(0, 4096, most, 16).is_ok());
        assert!(is_refused(HashPlan::hashes(0, 4096, most + 1, 16)));
        let most = (TREE_BYTES_MAX / 32) as u64;
        assert!(tree(0, 4096, most, 7, 32).is_ok());
        assert!(is_refused(tree(0, 4096, most + 1, 7, 32)));
        assert!(HashPlan::hashes(0, STEP_BYTES_MAX, 1, 16).is_ok());
        assert!(is_refused(HashPlan::hashes(0, STEP_BYTES_MAX + 1, 1, 16)));
        assert!(is_refused(HashPlan::hashes(0, 0, 1, 16)));
        assert!(HashPlan::hashes(u64::MAX - 10, 10, 1, 16).is_ok());
        assert!(is_refused(HashPlan::hashes(u64::MAX - 10, 11, 1, 16)));
        assert!(is_refused(HashPlan::hashes(0, 1, u64::MAX, 16)));
        assert!(is_refused(tree(0, 1, u64::MAX, 7, 16)));
        assert!(is_refused(tree(u64::MAX, 1, 1, 1, 16)));
    }

    #[test]
    fn blocks_outside_the_device_or_an_answer_are_refused() {
        let most = BLOCK_MESSAGE_BYTES_MAX as u64;
        assert!(block_range(0, 10, 10).is_ok());
        assert!(block_range(10, 0, 10).is_ok());
        assert!(block_range(0, most, most).is_ok());
        for (offset, len, size) in
            [(0, 11, 10), (10, 1, 10), (11, 0, 10), (u64::MAX, 2, 10), (0, most + 1, most * 2)]
        {
            let err = block_range(offset, len, size).expect_err("refused");
            assert_eq!(err.kind(), Kind::Protocol);
        }
    }

    #[test]
    fn a_tree_of_16_kib_leaves_is_hashed_a_mebibyte_at_a_time() {
        let plan = tree(0, 16 * KIB, 4, 2, 32).expect("a plan");
        assert_eq!((plan.level, plan.fold_levels, plan.nodes, plan.units()), (1, 1, 64, 16));
        // The largest node: coarse parts, since few of their hashes are held.
        let plan = tree(0, 16 * KIB, 1, 7, 32).expect("a plan");
        assert_eq!((plan.level, plan.fold_levels, plan.nodes), (4, 3, 4096));
    }

    #[test]
    fn many_runs_hold_no_more_than_one() {
        for count in [1_u64, 10, 1000] {
            let runs: Vec<_> = (0..count).map(|i| HashRun { start: i * GIB, n: 1 }).collect();
            let work = HashWork::runs(KIB, Some(7), &runs, 32).expect("work");
            assert!(work.nodes() * 32 <= PART_BYTES_MAX, "{count} runs: {} nodes", work.nodes());
            assert!(work.plans().all(|plan| plan.level + plan.fold_levels == 7));
        }
    }

    proptest! {
        #[test]
        fn any_plan_covers_its_request_once_within_the_limits(
            start in any::<u64>(),
            step in prop_oneof![1_u64..100, 1..=STEP_BYTES_MAX],
            n in 0_u64..9000,
            level in 0_u8..=7,
            hash_len in prop_oneof![Just(16_usize), Just(20), Just(64)],
        ) {
            let Ok(plan) = tree(start, step, n, level, hash_len) else { return Ok(()) };
            prop_assert_eq!(plan.level + plan.fold_levels, level);
            let most = (PART_BYTES_MAX).max(n * hash_len as u64);
            prop_assert!(plan.nodes() * hash_len as u64 <= most);
            let (mut at, mut nodes) = (start, 0);
            for i in 0..plan.units() {
                let unit = plan.unit(i);
                prop_assert_eq!(unit.start(), at);
                prop_assert_eq!(plan.unit_offset(i), nodes);
                prop_assert!(unit.n() > 0);
                at = unit.range().end;
                nodes += unit.n();
            }
            prop_assert_eq!(at, start + n * step * node_leaves(level));
            prop_assert_eq!(nodes, plan.nodes());
        }
    }
}
