//! Random reads of everything from several threads against two plain byte vectors.

use std::thread;

use proptest::prelude::*;

use super::patches::printed;
use super::rig::{Rig, Setup, wait};
use crate::digest::Algorithm;
use crate::units::{ByteRange, Direction, SizeRule};
use crate::view::change::{Change, Image};

/// The images and ranges, by the words of the protocol.
struct Model {
    images: [Vec<u8>; 2],
    extents: Vec<ByteRange>,
    patch: Vec<u8>,
}

impl Model {
    fn new(setup: Setup, local: &[u8], remote: &[u8]) -> Self {
        let (source, target) = match setup.direction {
            Direction::Push => (local, remote),
            Direction::Pull => (remote, local),
        };
        let common = source.len().min(target.len());
        let (merged, header) = match setup.rule {
            SizeRule::MinSize => ([&source[..common], &target[common..]].concat(), common),
            SizeRule::Strict | SizeRule::Resize => (source.to_vec(), source.len()),
        };
        let block = setup.block_bytes as usize;
        let at = |device: &[u8], i: usize| device.get(i).copied().unwrap_or(0);
        let mut extents = vec![];
        for start in (0..header).step_by(block) {
            if (start..start + block).any(|i| at(local, i) != at(remote, i)) {
                let range = ByteRange::new(start as u64, header.min(start + block) as u64);
                crate::units::push_joined(&mut extents, range);
            }
        }
        let patch = printed(setup, local, remote);
        Self { images: [merged, target.to_vec()], extents, patch }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read { original: bool, at: prop::sample::Index, len: u16 },
    Sequential { original: bool },
    Patch { at: prop::sample::Index, len: u16 },
    Extent { at: prop::sample::Index },
    Holes { original: bool, at: prop::sample::Index },
    Status,
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        8 => (any::<bool>(), at(), any::<u16>())
            .prop_map(|(original, at, len)| Step::Read { original, at, len }),
        1 => any::<bool>().prop_map(|original| Step::Sequential { original }),
        3 => (at(), any::<u16>()).prop_map(|(at, len)| Step::Patch { at, len }),
        2 => at().prop_map(|at| Step::Extent { at }),
        2 => (any::<bool>(), at()).prop_map(|(original, at)| Step::Holes { original, at }),
        1 => Just(Step::Status),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let block = prop_oneof![Just(64u64), Just(512), Just(1000), Just(4096), Just(40_000)];
    let cache = prop_oneof![Just(0u64), Just(20_000), Just(1 << 20)];
    (any::<[bool; 4]>(), block, cache).prop_map(|(flags, block_bytes, cache_bytes)| {
        let direction = if flags[0] { Direction::Push } else { Direction::Pull };
        let base = if flags[1] { Setup::own(direction) } else { Setup::new(direction) };
        Setup {
            rule: if flags[2] { SizeRule::Resize } else { SizeRule::MinSize },
            algorithm: if flags[1] { Algorithm::Blake3 } else { Algorithm::Md5 },
            background: flags[3],
            block_bytes,
            cache_bytes,
            ..base
        }
    })
}

/// Two devices: runs of zeros and of data, the second one with changes and another length.
fn devices() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let runs = prop::collection::vec((any::<u8>(), 1usize..30_000), 0..8);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), 1usize..5000), 0..8);
    let lengths = prop_oneof![3 => Just(0i32), 1 => -20_000..20_000i32];
    (runs, changes, lengths).prop_map(|(runs, changes, longer)| {
        let mut one = vec![];
        for (byte, len) in runs {
            let byte = if byte < 100 { 0 } else { byte };
            one.extend(std::iter::repeat_n(byte, len));
        }
        let mut two = one.clone();
        for (at, len) in changes {
            if !two.is_empty() {
                let at = at.index(two.len());
                let end = two.len().min(at + len);
                two[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
            }
        }
        let len = two.len().saturating_add_signed(longer as isize);
        two.resize(len, if longer % 2 == 0 { 0 } else { 7 });
        (one, two)
    })
}

fn check(rig: &Rig, model: &Model, step: &Step) {
    let image = |original| if original { Image::Original } else { Image::Merged };
    let content = |original| &model.images[usize::from(original)];
    match step {
        Step::Read { original, at, len } => {
            let all = content(*original);
            if !all.is_empty() {
                let at = at.index(all.len());
                let len = (all.len() - at).min(usize::from(*len) + 1);
                let got = rig.read(image(*original), at as u64, len as u64).unwrap();
                assert!(got == all[at..at + len], "{len} bytes at {at} of {step:?}");
            }
        }
        Step::Sequential { original } => {
            for (i, expected) in content(*original).chunks(10_000).enumerate() {
                let len = expected.len() as u64;
                let got = rig.read(image(*original), i as u64 * 10_000, len).unwrap();
                assert!(got == expected, "piece {i} of {step:?}");
            }
        }
        Step::Patch { at, len } => {
            let at = at.index(model.patch.len() + 10);
            let got = rig.patch_at(at as u64, u32::from(*len) + 1).unwrap();
            let rest = &model.patch[at.min(model.patch.len())..];
            assert!(rest.starts_with(&got), "patch at {at}");
            assert_eq!(got.is_empty(), rest.is_empty(), "patch at {at}");
        }
        Step::Extent { at } => {
            let at = at.index(content(false).len() + 10) as u64;
            let got = wait(|done| rig.live().next_extent(at, done)).unwrap();
            assert_eq!(got, model.extents.iter().find(|range| range.end > at).copied());
        }
        Step::Holes { original, at } => {
            let all = content(*original);
            let at = at.index(all.len() + 1);
            let data = rig.live().next_data(image(*original), at as u64).unwrap();
            let data = data.unwrap_or(ByteRange::new(all.len() as u64, all.len() as u64));
            assert!(data.start >= at as u64 && data.end <= all.len() as u64);
            let hole = &all[at..data.start as usize];
            assert!(hole.iter().all(|&byte| byte == 0), "hole {at}..{}", data.start);
        }
        Step::Status => assert_eq!(rig.status()["last_error"], serde_json::Value::Null),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_two_byte_vectors_whoever_reads_what(
        setup in setup(),
        (local, remote) in devices(),
        steps in prop::collection::vec(prop::collection::vec(step(), 1..15), 3),
    ) {
        let model = Model::new(setup, &local, &remote);
        let rig = Rig::of_bytes(setup, &local, &remote);
        thread::scope(|scope| {
            for steps in &steps {
                let (rig, model) = (&rig, &model);
                scope.spawn(move || steps.iter().for_each(|step| check(rig, model, step)));
            }
        });
        let ranges = model.extents.len() as u64;
        let differing: u64 = model.extents.iter().map(ByteRange::len).sum();
        prop_assert_eq!(rig.extents().unwrap(), model.extents);
        prop_assert_eq!(&rig.status()["differing_bytes"], differing);
        prop_assert_eq!(rig.live().changed_ranges(), Some(ranges));
        prop_assert!(rig.patch(30_000).unwrap() == model.patch);
        for (image, expected) in [Image::Merged, Image::Original].into_iter().zip(&model.images) {
            prop_assert_eq!(rig.live().image_bytes(image), expected.len() as u64);
        }
    }
}
