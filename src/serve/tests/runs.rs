//! Many runs of hashes in one answer.

use super::*;
use crate::wire::{HashRun, RUNS_BYTES_MAX, runs_print};

#[test]
fn runs_have_the_hashes_that_each_of_them_has_alone() {
    let device = Recorded::new((0..3_000_000u32).map(|i| (i >> 7) as u8).collect::<Vec<_>>());
    let hello = "CLIENT+blake3,tree,nh,runs 0.5";
    let (small, large) = ([(40_000, 3), (0, 2), (2_990_000, 5), (7, 0)], [(0, 1), (1 << 20, 1)]);
    let many = |level, runs: &[(u64, u32)]| {
        let runs = runs.iter().map(|&(start, n)| HashRun { start, n }).collect();
        Message::GetRuns { step: 4096, level, runs }
    };
    let mut alone = vec![];
    for (level, runs) in
        [(None, &small[..]), (Some(0), &small), (Some(1), &small), (Some(3), &large)]
    {
        let mut each: Vec<_> = runs
            .iter()
            .map(|&(start, n)| match (level, u64::from(n)) {
                // Without hashes it would be a hint.
                (None, 0) => Message::GetTree(Look { start, step: 4096, n: 0, level: 0 }),
                (None, n) => Message::GetHashes { start, step: 4096, n },
                (Some(level), n) => Message::GetTree(Look { start, step: 4096, n, level }),
            })
            .collect();
        each.push(Message::Done);
        let (answers, end) = ask(&device, opening(hello, "blake3", ""), &each);
        end.expect("a good session");
        let hashes = answers.into_iter().flat_map(|answer| match answer {
            Message::Hashes { hashes, .. } | Message::Tree { hashes, .. } => hashes,
            Message::Done => vec![],
            other => panic!("{} for an answer", other.name()),
        });
        alone.push(hashes.collect::<Vec<u8>>());
        let (answers, end) =
            ask(&device, opening(hello, "blake3", ""), &[many(level, runs), Message::Done]);
        end.expect("a good session");
        let [Message::Runs { step: 4096, level: echoed, print, hashes }, Message::Done] =
            &answers[..]
        else {
            panic!("{answers:?}");
        };
        let asked: Vec<_> = runs.iter().map(|&(start, n)| HashRun { start, n }).collect();
        assert_eq!((*echoed, *print), (level, runs_print(&asked)));
        assert!(hashes == alone.last().expect("pushed above"), "level {level:?}");
    }
    assert!(alone.iter().all(|hashes| !hashes.is_empty()));
}

#[test]
fn runs_need_their_extensions_and_fit_an_answer() {
    let device = Recorded::new(vec![1; 10_000]);
    let run = |n| HashRun { start: 0, n };
    let asked = |level, runs: Vec<HashRun>| Message::GetRuns { step: 512, level, runs };
    let most = (RUNS_BYTES_MAX / 32) as u32;
    // Leaves of nh have shorter hashes than blocks.
    let most_leaves = (RUNS_BYTES_MAX / 16) as u32;
    for (hello, request, is_good) in [
        ("CLIENT+blake3,runs 0.5", asked(None, vec![run(1), run(2)]), true),
        ("CLIENT+blake3,runs 0.5", asked(None, vec![run(most - 1), run(1)]), true),
        ("CLIENT+blake3,runs 0.5", asked(None, vec![run(most), run(1)]), false),
        ("CLIENT+blake3,runs 0.5", asked(None, vec![run(u32::MAX); 900]), false),
        ("CLIENT+blake3,runs 0.5", asked(Some(0), vec![run(1)]), false),
        ("CLIENT+blake3,tree 0.5", asked(None, vec![run(1)]), false),
        ("CLIENT+blake3,tree,runs 0.5", asked(Some(2), vec![run(1), run(0)]), true),
        ("CLIENT+blake3,tree,nh,runs 0.5", asked(None, vec![run(most), run(1)]), false),
        (
            "CLIENT+blake3,tree,nh,runs 0.5",
            asked(Some(0), vec![run(most_leaves - 1), run(1)]),
            true,
        ),
        ("CLIENT+blake3,tree,nh,runs 0.5", asked(Some(0), vec![run(most_leaves), run(1)]), false),
        (
            "CLIENT+blake3,tree,runs 0.5",
            asked(Some(7), vec![HashRun { start: u64::MAX, n: 1 }]),
            false,
        ),
    ] {
        let (_, end) =
            ask(&device, opening(hello, "blake3", ""), &[request.clone(), Message::Done]);
        let kind = end.err().map(|err| err.kind());
        assert_eq!(kind, (!is_good).then_some(Kind::Protocol), "{hello} {request:?}");
    }
}
