//! The changed ranges, found by comparing as far as is needed.

use std::sync::Arc;

use super::super::change::Done;
use super::Live;
use crate::diff::{Map, State};
use crate::error::Result;
use crate::units::ByteRange;

/// What the map says about the first changed range behind a block.
enum Look {
    /// It is this one, in blocks.
    Found(u64, u64),
    /// There is none.
    End,
    /// This block has to be compared first, and whether those behind it will be wanted too.
    Unknown(u64, bool),
}

fn look(map: &Map, from: u64, limit: u64) -> Look {
    let Some(first) = map.find(from, limit, |state| state != State::Same) else {
        return Look::End;
    };
    if map.state(first) == State::Unknown {
        return Look::Unknown(first, true);
    }
    let mut start = first;
    if first == from
        && let Some(before) = map.find_back(0, from, |state| state != State::Differs)
    {
        if map.state(before) == State::Unknown {
            return Look::Unknown(before, false);
        }
        start = before + 1;
    } else if first == from {
        start = 0;
    }
    match map.find(first, limit, |state| state != State::Differs) {
        Some(end) if map.state(end) == State::Unknown => Look::Unknown(end, true),
        Some(end) => Look::Found(start, end),
        None => Look::Found(start, limit),
    }
}

impl Live {
    pub(super) fn next_extent(self: &Arc<Self>, from: u64, done: Done<Option<ByteRange>>) {
        let block_bytes = self.engine.plan().block_bytes;
        let limit = self.layout.blocks();
        if from / block_bytes >= limit {
            return done(Ok(None));
        }
        match self.resolver.with_map(|map| look(map, from / block_bytes, limit)) {
            Look::End => done(Ok(None)),
            Look::Found(start, end) => {
                let bytes = ByteRange::new(start * block_bytes, self.layout.carried(end - 1).end);
                if bytes.end > from {
                    return done(Ok(Some(bytes)));
                }
                // `from` lies in the last block, behind what the patch carries of it.
                done(Ok(None));
            }
            Look::Unknown(block, ahead) => {
                let live = Arc::clone(self);
                let again = move |result: Result<()>| match result {
                    Ok(()) => live.next_extent(from, done),
                    Err(err) => done(Err(err)),
                };
                self.scan(block, ahead, Box::new(again));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_no_further_than_it_must() {
        let mut map = Map::new(100);
        assert!(matches!(look(&map, 5, 100), Look::Unknown(5, true)));
        map.learn(5, 10, State::Same);
        map.learn(10, 20, State::Differs);
        assert!(matches!(look(&map, 5, 100), Look::Unknown(20, true)));
        map.learn(20, 21, State::Same);
        assert!(matches!(look(&map, 5, 100), Look::Found(10, 20)));
        assert!(matches!(look(&map, 15, 100), Look::Found(10, 20)));
        map.learn(40, 50, State::Differs);
        map.learn(50, 60, State::Same);
        assert!(matches!(look(&map, 45, 100), Look::Unknown(39, false)));
        assert!(matches!(look(&map, 50, 60), Look::End));
        assert!(matches!(look(&map, 15, 18), Look::Found(10, 18)));
        map.learn(0, 5, State::Differs);
        assert!(matches!(look(&map, 2, 100), Look::Found(0, 5)));
        let mut map = Map::new(100);
        map.learn(0, 1, State::Same);
        map.learn(1, 5, State::Differs);
        map.learn(5, 6, State::Same);
        assert!(matches!(look(&map, 3, 100), Look::Found(1, 5)), "the first block is not in it");
    }
}
