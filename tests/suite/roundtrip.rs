//! Random pairs and options through the real binary against a naive model: two byte vectors.
//! Few cases, as each starts three processes; the engine's own property test runs many.

use proptest::prelude::*;

use crate::support::images::{changed, random_bytes};
use crate::support::run::server_command;
use crate::support::{Workdir, patch_file};

#[derive(Clone, Debug)]
struct Case {
    local: Vec<u8>,
    remote: Vec<u8>,
    block_size: u32,
    rule: &'static str,
    flags: Vec<&'static str>,
    pull: bool,
}

fn images() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (any::<u64>(), 0..200_000_usize, 0..200_000_usize, any::<bool>(), 0..12_usize).prop_map(
        |(seed, size, other, equal_sizes, changes)| {
            let full = random_bytes(seed, size.max(other));
            let mut local = full[..size].to_vec();
            // A stretch of zeros, for what treats them apart.
            local[size / 3..size / 2].fill(0);
            let remote = if equal_sizes { local.clone() } else { full[..other].to_vec() };
            (local, changed(&remote, seed ^ 1, changes))
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let block_size = prop_oneof![1..600_u32, Just(4096), Just(32_769), 1000..300_000_u32];
    let rule = prop_oneof![Just("--diffsize=resize"), Just("--diffsize=minsize")];
    let all = vec!["--twopass", "--zeroblocks", "--flushcache", "--fixedsalt", "--hash=sha1"];
    let flags = proptest::sample::subsequence(all, 0..=5);
    (images(), block_size, rule, flags, any::<bool>()).prop_map(
        |((local, remote), block_size, rule, flags, pull)| {
            // Tiny blocks of large images are all hashing and prove nothing more.
            let limit = if block_size < 64 { 5000 } else { usize::MAX };
            let cut = |image: Vec<u8>| image[..image.len().min(limit)].to_vec();
            Case { local: cut(local), remote: cut(remote), block_size, rule, flags, pull }
        },
    )
}

/// What the target must be afterwards.
fn model(source: &[u8], target: &[u8], rule: &str) -> Vec<u8> {
    if rule == "--diffsize=resize" {
        return source.to_vec();
    }
    let common = source.len().min(target.len());
    [&source[..common], &target[common..]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_patch_applied_gives_the_source(case in cases()) {
        let work = Workdir::with_pair(&case.local, &case.remote);
        let size = case.block_size.to_string();
        let mut options = vec!["-b", &size, case.rule];
        options.extend(&case.flags);
        if case.pull {
            options.push("--remdata");
        }
        let server_flags: &[&str] =
            if case.flags.contains(&"--zeroblocks") { &["--zeroblocks"] } else { &[] };
        let call = work.client_through(&options, &server_command(server_flags));
        let patch = call.run().expect(0).stdout;
        let offsets: Vec<u64> = patch_file::parse(&patch).records.iter().map(|r| r.0).collect();
        prop_assert!(offsets.is_sorted());
        let (source, target, name) = if case.pull {
            (&case.remote, &case.local, "local.img")
        } else {
            (&case.local, &case.remote, "remote.img")
        };
        work.apply(&[case.rule], &patch).expect(0);
        prop_assert!(work.read(name) == model(source, target, case.rule));
    }
}
