//! The engine in one process, over real pipes, against a naive comparison of two byte vectors.
//! The patch must be the same whatever the extensions, digest, threads, steps and holes are.

use std::sync::Arc;
use std::thread;

use bdsync::device::{Device, MemoryDevice};
use bdsync::diff::{Afterwards, Density, Engine, Plan, Sink, digests, walk};
use bdsync::digest::{Algorithm, BlockHasher, HashPool};
use bdsync::error::Result;
use bdsync::patch::{Header, PatchWriter};
use bdsync::serve;
use bdsync::transport::pair;
use bdsync::units::{Direction, SizeRule};
use bdsync::wire::{Extensions, Opening, Peer, QUEUED_REQUESTS_MAX};
use proptest::prelude::*;

const SALT: [u8; 32] = [7; 32];
const NAME: &[u8] = b"target.img";
/// What our side announces: these tests skip nothing.
const OFFER: Extensions = Extensions { skip: false, ..Extensions::ALL };

/// One way to make the same patch.
#[derive(Clone, Debug)]
struct Way {
    direction: Direction,
    rule: SizeRule,
    block_bytes: u64,
    extensions: Extensions,
    algorithm: Algorithm,
    threads: usize,
    /// Zero runs of so many bytes are holes; 0: no holes.
    hole_unit: usize,
    in_order: bool,
    afterwards: Afterwards,
}

struct Writer(PatchWriter<Vec<u8>>);

impl Sink for Writer {
    fn block(&mut self, offset: u64, data: &[u8], _target_hash: &[u8]) -> Result<()> {
        self.0.write_block(offset, data)
    }

    fn reached(&mut self, _position: u64) -> Result<()> {
        Ok(())
    }
}

fn device(bytes: &[u8], hole_unit: usize) -> MemoryDevice {
    match hole_unit {
        0 => MemoryDevice::new(bytes),
        unit => MemoryDevice::new(bytes).with_holes(unit),
    }
}

/// The patch that the engine makes, and how many requests it sends for that.
fn patch_of(local: &[u8], remote: &[u8], way: &Way) -> (Vec<u8>, u64) {
    let (ours, theirs) = pair(None).expect("a pair of pipes");
    let remote_device = remote.to_vec();
    let (extensions, unit) = (way.extensions, way.hole_unit);
    let server = thread::spawn(move || {
        serve::session(theirs, extensions, &|_| Ok(Box::new(device(&remote_device, unit))))
    });
    let opening = Opening::connect(ours, OFFER, b"remote.img").expect("a hello");
    let remote_bytes = opening.size();
    assert_eq!(opening.extensions(), way.extensions);
    let plan =
        Plan::new(way.direction, local.len() as u64, remote_bytes, way.block_bytes, way.rule)
            .expect("sizes that the rule allows");
    let salt = opening.salt().unwrap_or(&SALT).to_vec();
    let hasher = BlockHasher::new(way.algorithm, &salt)
        .expect("a hasher")
        .with_universal_leaves(way.extensions.nh);
    let peer = Peer::start(opening, &digests(&salt, &hasher, None)).expect("digests");
    let header = Header { size_bytes: plan.header_bytes, name: NAME.to_vec() };
    let local: Arc<dyn Device> = Arc::new(device(local, way.hole_unit));
    let pool = HashPool::with_threads(way.threads).expect("threads");
    let trees = way.extensions.goes_down_trees();
    let density = Density::for_peer(way.block_bytes, &hasher, trees, way.in_order);
    let engine = Engine::new(plan, local, peer, pool, hasher);
    let mut sink = Writer(PatchWriter::new(Vec::new(), &header).expect("a header"));
    walk(&engine, density, way.afterwards, &mut sink).expect("a walk");
    engine.peer().finish().expect("a good end");
    server.join().expect("no panic").expect("a session that ends well");
    (sink.0.finish(None).expect("a patch"), engine.peer().counters().requests)
}

/// The same from the definition: every block whose bytes, filled up with zeros, differ.
fn naive_patch(local: &[u8], remote: &[u8], way: &Way) -> Vec<u8> {
    let (source, common) = match way.direction {
        Direction::Push => (local, local.len().min(remote.len())),
        Direction::Pull => (remote, local.len().min(remote.len())),
    };
    let (size, end) = match way.rule {
        SizeRule::MinSize => (common, common),
        _ => (source.len(), local.len().max(remote.len())),
    };
    let header = Header { size_bytes: size as u64, name: NAME.to_vec() };
    let mut writer = PatchWriter::new(Vec::new(), &header).expect("a header");
    let block = way.block_bytes as usize;
    let padded = |device: &[u8], at: usize| {
        let mut bytes: Vec<u8> = device.iter().skip(at).take(block).copied().collect();
        bytes.resize(block, 0);
        bytes
    };
    for at in (0..end).step_by(block) {
        let stop = (at + block).min(size);
        if padded(local, at) != padded(remote, at) && at < stop {
            writer.write_block(at as u64, &source[at..stop]).expect("memory");
        }
    }
    writer.finish(None).expect("memory")
}

/// A device: a few bytes repeated, with zero stretches, and some of another device's bytes.
fn images() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let sizes = prop_oneof![
        4 => (0usize..70_000, 0usize..70_000),
        1 => (4_100_000usize..9_000_000, 4_100_000usize..9_000_000),
    ];
    (sizes, any::<bool>(), any::<u64>(), prop::collection::vec(any::<(u32, u16)>(), 0..30))
        .prop_map(|((ours, theirs), same_size, seed, changes)| {
            let longest = ours.max(theirs);
            let mut state = seed | 1;
            let mut base = Vec::with_capacity(longest + 8);
            while base.len() < longest {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(12345);
                if state >> 61 == 0 {
                    base.resize(base.len() + (state >> 45 & 0x1FFFF) as usize, 0);
                }
                base.extend_from_slice(&state.to_le_bytes());
            }
            let mut local = base[..ours].to_vec();
            let mut remote = base[..if same_size { ours } else { theirs }].to_vec();
            for (at, len) in changes {
                let side = if len % 2 == 0 { &mut local } else { &mut remote };
                if !side.is_empty() {
                    let at = at as usize % side.len();
                    let stop = (at + len as usize % 9000).min(side.len());
                    side[at..stop].fill(len as u8);
                }
            }
            (local, remote)
        })
}

/// Any that may be in use: all, none, one by itself, all but one, some.
fn extensions() -> impl Strategy<Value = Extensions> {
    const WORDS: [&str; 7] = ["blake3", "tree", "nh", "reorder", "early", "runs", "zstd"];
    let one = || 0..WORDS.len();
    let words = prop_oneof![
        1 => Just(vec![true; WORDS.len()]),
        1 => Just(vec![false; WORDS.len()]),
        2 => one().prop_map(|one| (0..WORDS.len()).map(|i| i == one).collect()),
        3 => one().prop_map(|one| (0..WORDS.len()).map(|i| i != one).collect()),
        3 => prop::collection::vec(any::<bool>(), WORDS.len()),
    ];
    words.prop_map(|chosen: Vec<bool>| {
        let words = WORDS.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(word, _)| *word);
        let hello = format!("SERVER+{} 0.5", words.collect::<Vec<_>>().join(","));
        Extensions::from_hello(hello.as_bytes()).expect("a hello").and(OFFER)
    })
}

fn ways(same_size: bool, large: bool) -> impl Strategy<Value = Way> {
    let rules = match same_size {
        true => vec![SizeRule::Strict, SizeRule::Resize, SizeRule::MinSize],
        false => vec![SizeRule::Resize, SizeRule::MinSize],
    };
    // Blocks of a few bytes are slow over megabytes.
    let blocks = match large {
        true => vec![512, 1000, 4096, 65536, 100_000, 1 << 20],
        false => vec![1, 7, 512, 1000, 4096, 32769, 65536, 100_000],
    };
    (
        prop::sample::select(vec![Direction::Push, Direction::Pull]),
        prop::sample::select(rules),
        prop::sample::select(blocks),
        extensions(),
        prop::sample::select(vec![Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512]),
        1usize..4,
        prop::sample::select(vec![0, 512, 4096, 65536]),
        any::<bool>(),
        prop::sample::select(vec![Afterwards::Requests, Afterwards::Nothing]),
    )
        .prop_map(
            |(
                direction,
                rule,
                block_bytes,
                extensions,
                other,
                threads,
                hole_unit,
                in_order,
                afterwards,
            )| {
                let algorithm = if extensions.blake3 { Algorithm::Blake3 } else { other };
                Way {
                    direction,
                    rule,
                    block_bytes,
                    extensions,
                    algorithm,
                    threads,
                    hole_unit,
                    in_order,
                    afterwards,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_patch_is_the_naive_one_whatever_the_way(
        ((local, remote), way) in images().prop_flat_map(|images| {
            let same = images.0.len() == images.1.len();
            let large = images.0.len().max(images.1.len()) > 100_000;
            (Just(images), ways(same, large))
        })
    ) {
        let (made, _) = patch_of(&local, &remote, &way);
        let expected = naive_patch(&local, &remote, &way);
        prop_assert!(made == expected, "{} bytes made, {} expected", made.len(), expected.len());
    }
}

/// How images are compared in the tests that count.
fn counted(extensions: Extensions, block_bytes: u64) -> Way {
    Way {
        direction: Direction::Push,
        rule: SizeRule::Strict,
        block_bytes,
        extensions,
        algorithm: Algorithm::Blake3,
        threads: 2,
        hole_unit: 0,
        in_order: false,
        afterwards: Afterwards::Nothing,
    }
}

fn image(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect()
}

#[test]
fn scattered_changes_are_asked_for_in_few_requests() {
    let local = image(4 << 20);
    let mut remote = local.clone();
    // Every other leaf of 16 KiB differs.
    remote.iter_mut().step_by(32 << 10).for_each(|byte| *byte ^= 1);
    // The first look is early; then 16 nodes, which are neighbours, their 256 leaves, and the
    // blocks of half of these.
    let (_, sent) = patch_of(&local, &remote, &counted(OFFER, 4096));
    assert_eq!(sent, 3);
}

#[test]
fn a_walk_finds_its_first_looks_answered() {
    // So long that the walk begins in a hurry: one segment of 4 MiB, then 16 and a part of one.
    let image = image((68 << 20) + 5000);
    for (early, block_bytes, requests) in
        [(false, 4096, 18), (true, 4096, 0), (true, 1024, 0), (true, 16384, 0)]
    {
        let way = counted(Extensions { early, ..OFFER }, block_bytes);
        let (_, sent) = patch_of(&image, &image, &way);
        assert_eq!(sent, requests, "early {early}, blocks of {block_bytes}");
    }
}

#[test]
fn any_number_of_small_scattered_changes_can_be_pulled() {
    let local = image(12 << 20);
    let mut remote = local.clone();
    // More blocks than may wait to be asked for, none of which has a neighbour.
    remote.iter_mut().step_by(128).for_each(|byte| *byte ^= 1);
    assert!(remote.len() / 128 > QUEUED_REQUESTS_MAX);
    for extensions in [OFFER, Extensions::NONE] {
        let algorithm = if extensions.blake3 { Algorithm::Blake3 } else { Algorithm::Md5 };
        let way = Way { direction: Direction::Pull, algorithm, ..counted(extensions, 64) };
        let (made, _) = patch_of(&local, &remote, &way);
        assert!(made == naive_patch(&local, &remote, &way), "{extensions:?}");
    }
}
