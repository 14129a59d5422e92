//! The lists of hashes that a comparison asks for next, in as few requests as the remote allows.
//! Pure.

use super::descent::Ask;
use crate::wire::{HashRun, Look, RUNS_MAX, Request, Session};

/// A request, and the asks that its answer is for, in their order.
pub(super) struct Question {
    pub(super) request: Request,
    pub(super) asks: Vec<Ask>,
}

/// The requests for `asks`, which are all of one probe: one for all that fit an answer where the
/// remote has the extension `runs`, else one for each.
pub(super) fn questions(asks: Vec<Ask>, session: &Session) -> Vec<Question> {
    let mut groups: Vec<Vec<Ask>> = Vec::new();
    let mut hashes = 0;
    for ask in asks {
        let fits =
            session.extensions.runs && hashes + ask.count <= session.runs_max(ask.probe.level);
        match groups.last_mut() {
            Some(group) if fits && group.len() < RUNS_MAX => group.push(ask),
            _ => {
                hashes = 0;
                groups.push(vec![ask]);
            }
        }
        hashes += ask.count;
    }
    groups.into_iter().map(|asks| Question { request: request(&asks), asks }).collect()
}

/// The request for `asks`, at least one.
fn request(asks: &[Ask]) -> Request {
    let Ask { probe, start, count: n, .. } = asks[0];
    let step = probe.step_bytes;
    match (asks.len(), probe.level) {
        (1, Some(level)) => Request::Tree(Look { start, step, n, level }),
        (1, None) => Request::Hashes { start, step, n },
        (_, level) => {
            // The hashes of all runs fit one message, so that of each is a small number.
            let run = |ask: &Ask| HashRun { start: ask.start, n: ask.count as u32 };
            Request::Runs { step, level, runs: asks.iter().map(run).collect() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ladder::Probe;
    use super::*;
    use crate::wire::Extensions;

    fn ask(index: usize, count: u64) -> Ask {
        let probe = Probe { step_bytes: 4096, level: None };
        Ask { index, probe, start: index as u64 * 4096, count }
    }

    fn session(runs: bool) -> Session {
        let extensions = Extensions { runs, ..Extensions::ALL };
        Session {
            size: 1 << 40,
            hash_bytes: 32,
            tree_hash_bytes: 16,
            checksum_bytes: 0,
            extensions,
        }
    }

    fn indices(questions: &[Question]) -> Vec<Vec<usize>> {
        let of = |question: &Question| question.asks.iter().map(|ask| ask.index).collect();
        questions.iter().map(of).collect()
    }

    #[test]
    fn as_many_asks_go_into_a_request_as_its_answer_holds() {
        let max = session(true).runs_max(None);
        let asks = vec![ask(0, 1), ask(1, max - 2), ask(2, 1), ask(3, 1), ask(4, max), ask(5, 7)];
        let together = questions(asks.clone(), &session(true));
        assert_eq!(indices(&together), [vec![0, 1, 2], vec![3], vec![4], vec![5]]);
        let Request::Runs { step: 4096, level: None, runs } = &together[0].request else {
            panic!("{:?}", together[0].request);
        };
        let numbers: Vec<_> = runs.iter().map(|run| (run.start, u64::from(run.n))).collect();
        assert_eq!(numbers, [(0, 1), (4096, max - 2), (8192, 1)]);
        assert_eq!(together[1].request, Request::Hashes { start: 3 * 4096, step: 4096, n: 1 });
        let alone = questions(asks, &session(false));
        assert_eq!(indices(&alone), [[0], [1], [2], [3], [4], [5]]);
        assert!(alone.iter().all(|one| matches!(one.request, Request::Hashes { .. })));
    }

    #[test]
    fn a_request_has_no_more_runs_than_a_message_holds() {
        let asks = (0..RUNS_MAX + 1).map(|index| ask(index, 1)).collect();
        let lengths: Vec<_> =
            questions(asks, &session(true)).iter().map(|question| question.asks.len()).collect();
        assert_eq!(lengths, [RUNS_MAX, 1]);
    }
}
