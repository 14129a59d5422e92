//! Hashes over hashes: one for many blocks, so that two sides compare much at little cost.
//!
//! ```text
//!   level 2             H(salt || 16 hashes of level 1)         covers 256 steps
//!   level 1    H(salt || 16 block hashes) ...                   covers 16 steps
//!   level 0  the leaves                                         one step each
//! ```
//! A leaf's hash is that of a block, or a faster one: [`BlockHasher::leaves`].
//! A node always has 16 children: blocks past the device's end are blocks of zeros.

use super::algorithm::Digest;
use super::block::BlockHasher;
use super::leaf_cache::Kept;
use super::pool::Scratch;
use super::range::{Run, walk};
use super::span::BlockSpan;
use crate::device::Device;
use crate::error::Result;

/// Children of a node.
pub const FAN: usize = 16;

/// Highest level of a node, with `16^7` leaves.
pub const LEVEL_MAX: u8 = 7;

/// How many leaves a node of `level` has; `level` is at most [`LEVEL_MAX`].
#[must_use]
pub const fn node_leaves(level: u8) -> u64 {
    (FAN as u64).pow(level as u32)
}

/// The hashes `levels` levels above `hashes`: for every `16^levels` of them, one.
///
/// # Panics
/// When `hashes` are not whole nodes of that level.
#[must_use]
pub fn fold(hasher: &BlockHasher, mut hashes: Vec<u8>, levels: u8) -> Vec<u8> {
    let hash_len = hasher.tree_hash_len();
    for _ in 0..levels {
        assert_eq!(hashes.len() % (FAN * hash_len), 0, "whole nodes only");
        let mut parents = vec![0; hashes.len() / FAN];
        let nodes = hashes.chunks_exact(FAN * hash_len);
        nodes
            .zip(parents.chunks_exact_mut(hash_len))
            .for_each(|(children, parent)| hasher.hash_children(children, parent));
        hashes = parents;
    }
    hashes
}

/// The hashes of nodes over nothing but zeros: of the leaf of `step` bytes, and of each level
/// above it up to `top`.
#[must_use]
pub fn zero_nodes(hasher: &BlockHasher, step: u64, top: u8) -> Vec<Digest> {
    let mut nodes = vec![hasher.leaves().zero_hash(step)];
    for level in 1..=usize::from(top) {
        let children = nodes[level - 1].repeat(FAN);
        nodes.push(Digest::filled(hasher.tree_hash_len(), |out| {
            hasher.hash_children(&children, out)
        }));
    }
    nodes
}

/// The hash of the node of `level` over the leaves of `step` bytes from `start` on, in one
/// pass over the device and in memory that does not depend on its size.
///
/// Holes cost neither reading nor hashing. Leaves are taken from what is `kept`, and added if they
/// are to be.
///
/// # Errors
/// `Kind::Protocol` when the node does not fit 64 bits; `Kind::Read` as the device's.
///
/// # Panics
/// When `level` is above [`LEVEL_MAX`].
pub fn hash_node(
    device: &dyn Device,
    hasher: &BlockHasher,
    start: u64,
    step: u64,
    level: u8,
    kept: Option<Kept<'_>>,
    scratch: &mut Scratch,
) -> Result<Digest> {
    assert!(level <= LEVEL_MAX, "a level that exists");
    let leaves = BlockSpan::new(start, step, node_leaves(level))?;
    let mut folder = Folder::new(hasher, step, level);
    walk(device, hasher.leaves(), leaves, kept, scratch, &mut |run| match run {
        Run::Zeros(count) => folder.push_zeros(count),
        Run::Hashes(hashes) => {
            hashes.chunks_exact(hasher.tree_hash_len()).for_each(|leaf| folder.push(0, leaf));
        }
    })?;
    Ok(folder.finish())
}

/// Folds leaves as they come; holds less than one node's children of each level.
struct Folder<'a> {
    hasher: &'a BlockHasher,
    step: u64,
    top: u8,
    leaves: u64,
    /// The hashes of each level that have no parent yet.
    pending: [Vec<u8>; LEVEL_MAX as usize + 1],
    /// The hash of a zero node of each level, once one was needed.
    zeros: Vec<Digest>,
}

impl<'a> Folder<'a> {
    fn new(hasher: &'a BlockHasher, step: u64, top: u8) -> Self {
        Self { hasher, step, top, leaves: 0, pending: Default::default(), zeros: Vec::new() }
    }

    /// Appends a node of `level`, which the leaves before it fill up to.
    fn push(&mut self, level: u8, hash: &[u8]) {
        self.leaves += node_leaves(level);
        let hash_len = self.hasher.tree_hash_len();
        let mut level = usize::from(level);
        self.pending[level].extend_from_slice(hash);
        while level < usize::from(self.top) && self.pending[level].len() == FAN * hash_len {
            let (children, parents) = self.pending[level..].split_at_mut(1);
            let at = parents[0].len();
            parents[0].resize(at + hash_len, 0);
            self.hasher.hash_children(&children[0], &mut parents[0][at..]);
            children[0].clear();
            level += 1;
        }
    }

    /// Appends `count` zero leaves, as the largest nodes that lie wholly within them.
    fn push_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let fits = |level: u8| {
                let leaves = node_leaves(level);
                leaves <= count && self.leaves.is_multiple_of(leaves)
            };
            let level = (1..=self.top).rev().find(|level| fits(*level)).unwrap_or(0);
            let zero = self.zero_node(level);
            self.push(level, &zero);
            count -= node_leaves(level);
        }
    }

    fn zero_node(&mut self, level: u8) -> Digest {
        if self.zeros.is_empty() {
            self.zeros = zero_nodes(self.hasher, self.step, self.top);
        }
        self.zeros[usize::from(level)]
    }

    fn finish(self) -> Digest {
        let root = &self.pending[usize::from(self.top)];
        Digest::filled(self.hasher.tree_hash_len(), |out| out.copy_from_slice(root))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::algorithm::Algorithm;
    use super::super::testing::{TestDevice, naive_hash, naive_hashes};
    use super::*;
    use crate::error::Kind;
    use crate::units::ByteRange;

    fn hasher() -> BlockHasher {
        BlockHasher::new(Algorithm::Md5, b"salt").expect("a good salt")
    }

    fn naive_node(device: &TestDevice, start: u64, step: u64, level: u8) -> Vec<u8> {
        if level == 0 {
            return naive_hashes(device, &hasher(), start, step, 1);
        }
        let child_bytes = step * node_leaves(level - 1);
        let children: Vec<u8> = (0..16)
            .flat_map(|i| naive_node(device, start + i * child_bytes, step, level - 1))
            .collect();
        naive_hash(&hasher(), &children)
    }

    #[test]
    fn a_node_is_the_hash_of_its_16_children() {
        let mut device = TestDevice::new((0..9000_u32).map(|i| (i / 100) as u8).collect());
        device.punch(ByteRange::new(1000, 5000));
        for level in 0..=2 {
            for start in [0, 5, 4096, 100_000] {
                let node =
                    hash_node(&device, &hasher(), start, 20, level, None, &mut Scratch::new());
                let expected = naive_node(&device, start, 20, level);
                assert_eq!(node.expect("a node")[..], expected, "level {level}, start {start}");
            }
        }
    }

    #[test]
    fn keyed_blake3_folds_with_the_key() {
        let hasher = BlockHasher::new(Algorithm::Blake3, &[3; 32]).expect("a good salt");
        let device = TestDevice::new(vec![5; 4096]);
        let node = hash_node(&device, &hasher, 0, 512, 1, None, &mut Scratch::new());
        let zero = hasher.zero_hash(512);
        let leaf = blake3::keyed_hash(&[3; 32], &[5; 512]);
        let children = [leaf.as_bytes().repeat(8), zero.repeat(8)].concat();
        assert_eq!(
            node.expect("a node")[..],
            blake3::keyed_hash(&[3; 32], &children).as_bytes()[..]
        );
    }

    #[test]
    fn the_largest_node_of_nothing_is_quick_and_reads_nothing() {
        let device = TestDevice::new(vec![]);
        let top = hash_node(&device, &hasher(), 0, 1 << 30, LEVEL_MAX, None, &mut Scratch::new());
        let mut expected = hasher().zero_hash(1 << 30).to_vec();
        for _ in 0..LEVEL_MAX {
            expected = naive_hash(&hasher(), &expected.repeat(16));
        }
        assert_eq!(top.expect("a node")[..], expected);
        assert!(device.reads().is_empty());
    }

    #[test]
    fn a_node_that_does_not_fit_is_refused() {
        let device = TestDevice::new(vec![]);
        let err = hash_node(&device, &hasher(), 1, 1 << 60, 1, None, &mut Scratch::new());
        assert_eq!(err.expect_err("does not fit").kind(), Kind::Protocol);
    }

    proptest! {
        #[test]
        fn any_node_equals_the_fold_of_its_leaves(
            device in TestDevice::any(5000),
            start in 0_u64..2000,
            step in 1_u64..40,
            level in 0_u8..=3,
        ) {
            let leaves = naive_hashes(&device, &hasher(), start, step, node_leaves(level));
            let node = hash_node(&device, &hasher(), start, step, level, None, &mut Scratch::new());
            prop_assert_eq!(&node.expect("a node")[..], &fold(&hasher(), leaves, level)[..]);
        }
    }
}
