//! How fast the parts are that a run is made of: `cargo bench`, or `cargo bench -- NAME`. What they
//! make together is measured by `contrib/bench`.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;

use bdsync::device::{Device, MemoryDevice};
use bdsync::diff::{Afterwards, Density, Engine, Map, Plan, Sink, State, digests, walk};
use bdsync::digest::{Algorithm, BlockHasher, HashPool, Scratch, fold, hash_range, is_zero};
use bdsync::error::Result;
use bdsync::patch::{Header, PatchIndex, PatchReader, PatchWriter};
use bdsync::serve;
use bdsync::transport::pair;
use bdsync::units::{ByteRange, Direction, SizeRule};
use bdsync::wire::{Extensions, FrameReader, Message, Opening, Peer};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
const SALT: [u8; 32] = [7; 32];

fn main() {
    divan::main();
}

/// Bytes that no digest finds easier than others.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 32) as u32
    };
    (0..len / 4).flat_map(|_| next().to_le_bytes()).collect()
}

/// `image` with every so many'th block changed.
fn changed(image: &[u8], every: usize) -> Vec<u8> {
    let mut changed = image.to_vec();
    changed.chunks_mut(BLOCK).step_by(every).for_each(|block| block[100] ^= 1);
    changed
}

mod hashing {
    use super::*;

    /// Blocks of 4 KiB, leaves of 16 KiB.
    #[divan::bench(args = [BLOCK, 4 * BLOCK])]
    fn blake3(bencher: Bencher, step: usize) {
        blocks(bencher, &hasher(Algorithm::Blake3), step);
    }

    /// Leaves by the faster hash.
    #[divan::bench(args = [BLOCK, 4 * BLOCK])]
    fn nh(bencher: Bencher, step: usize) {
        blocks(bencher, hasher(Algorithm::Blake3).with_universal_leaves(true).leaves(), step);
    }

    #[divan::bench(args = ["md5", "sha1", "sha256", "blake2b512"])]
    fn classic(bencher: Bencher, name: &str) {
        blocks(bencher, &hasher(Algorithm::from_name(name).expect("a digest")), BLOCK);
    }

    fn hasher(algorithm: Algorithm) -> BlockHasher {
        BlockHasher::new(algorithm, &SALT).expect("a salt")
    }

    fn blocks(bencher: Bencher, hasher: &BlockHasher, step: usize) {
        let data = noise(MIB);
        let mut out = vec![0; MIB / step * hasher.hash_len()];
        bencher
            .counter(BytesCount::new(MIB))
            .bench_local(|| hasher.hash_blocks(&data, step, black_box(&mut out)));
    }

    /// With reading, as the engine and the server do it.
    #[divan::bench(args = ["data", "zeros", "holes"])]
    fn range(bencher: Bencher, of: &str) {
        let device = match of {
            "data" => MemoryDevice::new(noise(4 * MIB)),
            "zeros" => MemoryDevice::new(vec![0; 4 * MIB]),
            _ => MemoryDevice::new(vec![0; 4 * MIB]).with_holes(BLOCK),
        };
        let hasher = hasher(Algorithm::Blake3).with_universal_leaves(true);
        let mut scratch = Scratch::new();
        let step = 4 * BLOCK as u64;
        bencher
            .counter(BytesCount::new(4 * MIB))
            .bench_local(|| hash_range(&device, hasher.leaves(), 0, step, 256, &mut scratch));
    }

    #[divan::bench]
    fn fold_two_levels(bencher: Bencher) {
        let hasher = hasher(Algorithm::Blake3);
        let hashes = noise(256 * hasher.hash_len());
        bencher
            .counter(ItemsCount::new(256_usize))
            .bench_local(|| fold(&hasher, hashes.clone(), 2));
    }

    #[divan::bench]
    fn zeros_found(bencher: Bencher) {
        let data = vec![0; MIB];
        bencher.counter(BytesCount::new(MIB)).bench_local(|| is_zero(black_box(&data)));
    }
}

mod comparing {
    use super::*;

    struct Count(u64);

    impl Sink for Count {
        fn block(&mut self, _: u64, data: &[u8], _: &[u8]) -> Result<()> {
            self.0 += data.len() as u64;
            Ok(())
        }

        fn reached(&mut self, _: u64) -> Result<()> {
            Ok(())
        }
    }

    /// A whole session over pipes: 64 MiB of which every so many'th block differs (0: none).
    #[divan::bench(args = [0, 1000, 100, 10, 1], sample_count = 10)]
    fn session(bencher: Bencher, every: usize) {
        let local = noise(64 * MIB);
        let remote = if every == 0 { local.clone() } else { changed(&local, every) };
        bencher
            .counter(BytesCount::new(64 * MIB))
            .with_inputs(|| (MemoryDevice::new(local.clone()), MemoryDevice::new(remote.clone())))
            .bench_local_values(|(local, remote)| push(local, remote));
    }

    fn push(local: MemoryDevice, remote: MemoryDevice) -> u64 {
        let (ours, theirs) = pair(None).expect("pipes");
        let remote = parking_lot::Mutex::new(Some(remote));
        let server = thread::spawn(move || {
            serve::session(theirs, Extensions::ALL, &|_| {
                Ok(Box::new(remote.lock().take().expect("one session")) as Box<dyn Device>)
            })
        });
        let offer = Extensions { skip: false, ..Extensions::ALL };
        let opening = Opening::connect(ours, offer, b"remote").expect("a hello");
        let (size, block) = (opening.size(), BLOCK as u64);
        let plan =
            Plan::new(Direction::Push, local.size(), size, block, SizeRule::Strict).expect("sizes");
        let salt = opening.salt().unwrap_or(&SALT).to_vec();
        let hasher =
            BlockHasher::new(Algorithm::Blake3, &salt).expect("a salt").with_universal_leaves(true);
        let peer = Peer::start(opening, &digests(&salt, &hasher, None)).expect("digests");
        let density = Density::for_peer(block, &hasher, true, false);
        let pool = HashPool::new().expect("threads");
        let engine = Engine::new(plan, Arc::new(local), peer, pool, hasher);
        let mut sink = Count(0);
        walk(&engine, density, Afterwards::Nothing, &mut sink).expect("a walk");
        engine.peer().finish().expect("a good end");
        server.join().expect("no panic").expect("a good session");
        sink.0
    }
}

mod codec {
    use super::*;

    /// Full answers: 4095 hashes, a block of 32 KiB.
    fn messages() -> [Message; 2] {
        [
            Message::Hashes { start: 0, step: 4096, n: 4095, hashes: noise(4095 * 32 / 4 * 4) },
            Message::Block { offset: 1 << 40, data: noise(32 * 1024) },
        ]
    }

    #[divan::bench(args = [0, 1])]
    fn encode(bencher: Bencher, which: usize) {
        let message = &messages()[which];
        let mut out = Vec::new();
        bencher.counter(BytesCount::new(message.wire_bytes())).bench_local(|| {
            out.clear();
            message.encode(&mut out).expect("a message that fits");
            black_box(&out);
        });
    }

    #[divan::bench(args = [0, 1])]
    fn decode(bencher: Bencher, which: usize) {
        let mut bytes = Vec::new();
        messages()[which].encode(&mut bytes).expect("a message that fits");
        bencher
            .counter(BytesCount::new(bytes.len()))
            .bench_local(|| FrameReader::new(&bytes[..]).read_message().expect("well-formed"));
    }
}

mod map {
    use super::*;

    /// Blocks of a device of 4 GiB.
    const BLOCKS: u64 = 1 << 20;

    fn scattered() -> Map {
        let mut map = Map::new(BLOCKS);
        map.learn(0, BLOCKS / 2, State::Same);
        (BLOCKS / 2..BLOCKS).for_each(|at| {
            map.learn(at, at + 1, if at % 100 == 0 { State::Differs } else { State::Same })
        });
        map
    }

    #[divan::bench(sample_count = 20)]
    fn learn_block_by_block(bencher: Bencher) {
        bencher.counter(ItemsCount::new(BLOCKS / 2)).bench_local(scattered);
    }

    #[divan::bench]
    fn rank(bencher: Bencher) {
        let map = scattered();
        bencher.bench_local(|| map.rank(black_box(BLOCKS - 7)));
    }

    #[divan::bench]
    fn select(bencher: Bencher) {
        let map = scattered();
        let last = map.differing_blocks() - 1;
        bencher.bench_local(|| map.select(black_box(last)));
    }

    #[divan::bench]
    fn find_next_difference(bencher: Bencher) {
        let map = scattered();
        bencher.bench_local(|| map.find(black_box(0), BLOCKS, |state| state == State::Differs));
    }
}

mod patch_layout {
    use super::*;

    /// A patch of every so many'th block of 64 MiB.
    fn patch(every: usize) -> Vec<u8> {
        let (size, block) = (64 * MIB, noise(BLOCK));
        let header = Header { size_bytes: size as u64, name: b"device".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).expect("a header");
        for at in (0..size).step_by(every * BLOCK) {
            writer.write_block(at as u64, &block).expect("memory");
        }
        writer.finish(None).expect("memory")
    }

    #[divan::bench(args = [1, 100])]
    fn write(bencher: Bencher, every: usize) {
        bencher.counter(BytesCount::new(patch(every).len())).bench_local(|| patch(every));
    }

    #[divan::bench(args = [1, 100])]
    fn read(bencher: Bencher, every: usize) {
        let patch = patch(every);
        bencher.counter(BytesCount::new(patch.len())).bench_local(|| {
            let mut reader = PatchReader::new(&patch[..], "patch").expect("a header");
            while let Some(batch) = reader.next_batch().expect("records") {
                batch.records().for_each(|record| _ = black_box(record));
            }
        });
    }

    #[divan::bench(args = [1, 2, 100])]
    fn index(bencher: Bencher, every: usize) {
        let patch = MemoryDevice::new(patch(every));
        bencher.bench_local(|| PatchIndex::open(&patch).expect("an index"));
    }

    #[divan::bench(args = [1, 2, 100])]
    fn look_up(bencher: Bencher, every: usize) {
        let index = PatchIndex::open(&MemoryDevice::new(patch(every))).expect("an index");
        let range = ByteRange::new(33 * MIB as u64, 34 * MIB as u64);
        bencher.bench_local(|| index.pieces(black_box(range)).count());
    }
}
