//! The patch file is the client's output, byte for byte, wherever one begins to read it.

use super::rig::{Rig, Setup, noise};
use crate::diff::{Afterwards, Density, Sink, walk};
use crate::digest::Algorithm;
use crate::error::{Kind, Result};
use crate::patch::{Checksum, Header, PatchWriter};
use crate::units::{Direction, SizeRule};
use crate::view::change::Change;

struct Written<W>(PatchWriter<W>);

impl<W: std::io::Write> Sink for Written<W> {
    fn block(&mut self, offset: u64, data: &[u8], _target_hash: &[u8]) -> Result<()> {
        self.0.write_block(offset, data)
    }

    fn reached(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// What the client prints.
pub fn printed(setup: Setup, local: &[u8], remote: &[u8]) -> Vec<u8> {
    let rig = Rig::of_bytes(Setup { checksum: None, ..setup }, local, remote);
    let header =
        Header { size_bytes: rig.engine.plan().header_bytes, name: b"/dev/target".to_vec() };
    let mut sink = Written(PatchWriter::new(Vec::new(), &header).unwrap());
    let density = Density::for_peer(setup.block_bytes, rig.engine.hasher(), setup.own, false);
    walk(&rig.engine, density, Afterwards::Requests, &mut sink).unwrap();
    let checksum = setup.checksum.map(|algorithm| {
        let source = if setup.direction == Direction::Push { local } else { remote };
        let mut hasher = crate::digest::Hasher::new(algorithm);
        hasher.update(source);
        let name = algorithm.name().as_bytes().to_vec();
        Checksum { name, digest: hasher.finish().to_vec() }
    });
    sink.0.finish(checksum.as_ref()).unwrap()
}

#[test]
fn patch_is_what_the_client_prints_under_every_rule_and_block_size() {
    let common = noise(1, 700_001);
    let mut changed = common.clone();
    for at in [0, 4095, 4096, 300_000, 300_001, 340_000, 500_000, 700_000] {
        changed[at] ^= 1;
    }
    let longer = [&changed[..], &[0; 70_000], &noise(2, 50_000)].concat();
    let pairs = [(&common, &changed), (&common, &longer), (&longer, &common)];
    for block_bytes in [512, 1000, 4096, 32769, 65536, 262_144] {
        for (pair, (local, remote)) in pairs.into_iter().enumerate() {
            for rule in [SizeRule::Resize, SizeRule::MinSize] {
                for direction in [Direction::Push, Direction::Pull] {
                    let setup = if block_bytes % 2 == 0 { Setup::own } else { Setup::new };
                    let checksum = (block_bytes % 2 == 0).then_some(Algorithm::Sha1);
                    let setup = Setup { rule, block_bytes, checksum, ..setup(direction) };
                    let expected = printed(setup, local, remote);
                    let rig = Rig::of_bytes(setup, local, remote);
                    let got = rig.patch(50_000).unwrap();
                    assert!(got == expected, "pair {pair}, {setup:?}");
                    assert_eq!(rig.live().patch_bytes(), Some(expected.len() as u64));
                }
            }
        }
    }
}

#[test]
fn patch_reads_at_any_offset_and_by_two_readers_at_once() {
    let (local, remote) = (noise(3, 3_000_000), noise(4, 3_000_000));
    for direction in [Direction::Push, Direction::Pull] {
        let setup = Setup { checksum: Some(Algorithm::Md5), ..Setup::own(direction) };
        let expected = printed(setup, &local, &remote);
        let rig = Rig::of_bytes(setup, &local, &remote);
        std::thread::scope(|scope| {
            for reader in 0..3usize {
                let (rig, expected) = (&rig, &expected);
                scope.spawn(move || {
                    for i in 0..40usize {
                        let at = (i * 7_919_993 + reader * 999_983) % (expected.len() + 100);
                        let got = rig.patch_at(at as u64, 5000).unwrap();
                        let rest = &expected[at.min(expected.len())..];
                        assert!(rest.starts_with(&got), "at {at}");
                        assert_eq!(got.is_empty(), rest.is_empty(), "at {at}");
                    }
                });
            }
        });
        assert!(rig.patch(1 << 17).unwrap() == expected);
    }
}

#[test]
fn reads_of_a_known_patch_are_never_short() {
    let (local, remote) = (noise(5, 3_000_000), noise(6, 3_000_000));
    for (direction, block_bytes) in [(Direction::Push, 4096), (Direction::Pull, 256)] {
        let setup = Setup { block_bytes, checksum: Some(Algorithm::Md5), ..Setup::own(direction) };
        let expected = printed(setup, &local, &remote);
        let rig = Rig::of_bytes(setup, &local, &remote);
        rig.extents().unwrap();
        for (at, len) in [(0, 100), (0, 1 << 20), (30, 1 << 20), (5000, 2 << 20), (0, 4 << 20)] {
            let whole = &expected[at..expected.len().min(at + len)];
            assert!(rig.patch_at(at as u64, len as u32).unwrap() == whole, "{len} at {at}");
        }
        let end = expected.len() - 35;
        assert_eq!(rig.patch_at(end as u64, 100).unwrap(), expected[end..]);
    }
}

#[test]
fn answers_out_of_large_blocks_take_no_more_memory_than_was_asked_for() {
    let (local, remote) = (noise(7, 5_000_000), noise(8, 5_000_000));
    for direction in [Direction::Push, Direction::Pull] {
        let setup = Setup { block_bytes: 2 << 20, ..Setup::own(direction) };
        let expected = printed(setup, &local, &remote);
        let rig = Rig::of_bytes(setup, &local, &remote);
        rig.extents().unwrap();
        for len in [7, 40_000] {
            // Record headers and both bounds between blocks are among these.
            let near_bounds = (0..4).map(|block| block * ((2 << 20) + 64 * 10));
            let starts =
                near_bounds.flat_map(|at| [at, at + 20, at + 30, at + 32_780, at + 60_000]);
            for at in starts.filter(|&at| at < expected.len()) {
                let got = rig.patch_at(at as u64, len).unwrap();
                let whole = &expected[at..expected.len().min(at + len as usize)];
                assert!(got == whole, "{len} at {at}, {direction:?}");
                assert!(got.capacity() <= 2 * len as usize + 64, "{} at {at}", got.capacity());
            }
        }
    }
}

#[test]
fn the_header_is_there_before_anything_is_compared() {
    let rig = Rig::of_bytes(Setup::new(Direction::Push), &[1; 5000], &[2; 5000]);
    assert_eq!(rig.patch_at(0, 11).unwrap(), *b"BDSYNC 0.3\n");
    // Whoever wants more gets what there is.
    let header = Header { size_bytes: 5000, name: b"/dev/target".to_vec() };
    assert_eq!(rig.patch_at(0, 4096).unwrap(), header.encode().unwrap());
    assert_eq!(rig.requests(), []);
}

#[test]
fn devices_of_no_bytes_make_an_empty_patch() {
    for direction in [Direction::Push, Direction::Pull] {
        let rig = Rig::of_bytes(Setup::new(direction), &[], &[]);
        assert_eq!(rig.patch(100).unwrap(), printed(Setup::new(direction), &[], &[]));
        assert_eq!(rig.extents().unwrap(), []);
    }
}

#[test]
fn checksum_of_a_classic_source_is_refused_at_once() {
    let setup = |direction| Setup { checksum: Some(Algorithm::Md5), ..Setup::new(direction) };
    let (local, remote) =
        (super::rig::TestDevice::new(&[1; 9]), super::rig::TestDevice::new(&[2; 9]));
    let refused = Rig::try_new(setup(Direction::Pull), local, remote).err().unwrap();
    assert_eq!(refused.kind(), Kind::Usage);
    assert!(refused.to_string().contains("leave out --checksum"), "{refused}");
    let push = Rig::of_bytes(setup(Direction::Push), &[1; 9], &[2; 9]);
    assert_eq!(push.patch(10).unwrap(), printed(setup(Direction::Push), &[1; 9], &[2; 9]));
}
