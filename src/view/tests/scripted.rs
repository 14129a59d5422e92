//! A change whose answers come at once, late, or not, as a script says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use parking_lot::Mutex;

use super::{HOLE_BYTES, Model, part};
use crate::device::{Device, MemoryDevice};
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;
use crate::view::{Change, Done, Image, Status};

/// How a scripted change answers one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Now,
    Later,
    Fail,
    FailLater,
}

/// An answer on its way.
type Letter = Box<dyn FnOnce() + Send>;

/// A change with the answers of a model, in the moods of a script, again and again.
pub struct ScriptedChange {
    model: Model,
    images: [MemoryDevice; 2],
    moods: Vec<Mood>,
    /// How many were answered.
    pub questions: AtomicUsize,
    later: Mutex<Option<mpsc::Sender<Letter>>>,
    postman: Option<thread::JoinHandle<()>>,
}

impl ScriptedChange {
    pub fn new(model: &Model, moods: &[Mood]) -> Self {
        let image = |bytes: &[u8]| MemoryDevice::new(bytes).with_holes(HOLE_BYTES);
        let (later, letters) = mpsc::channel::<Letter>();
        let postman = thread::spawn(move || {
            for letter in letters {
                thread::yield_now();
                letter();
            }
        });
        Self {
            images: [image(&model.new), image(&model.old)],
            model: model.clone(),
            moods: moods.to_vec(),
            questions: AtomicUsize::new(0),
            later: Mutex::new(Some(later)),
            postman: Some(postman),
        }
    }

    fn image(&self, image: Image) -> &MemoryDevice {
        &self.images[usize::from(image == Image::Original)]
    }

    fn mood(&self) -> Mood {
        let question = self.questions.fetch_add(1, Ordering::Relaxed);
        self.moods[question % self.moods.len()]
    }

    fn answer<T: Send + 'static>(&self, value: T, done: Done<T>) {
        let mood = self.mood();
        let result = match mood {
            Mood::Now | Mood::Later => Ok(value),
            Mood::Fail | Mood::FailLater => Err(Error::new(Kind::Connection, "scripted")),
        };
        match mood {
            Mood::Now | Mood::Fail => done(result),
            Mood::Later | Mood::FailLater => {
                let letter = Box::new(move || done(result));
                self.later.lock().as_ref().unwrap().send(letter).unwrap();
            }
        }
    }
}

impl Drop for ScriptedChange {
    fn drop(&mut self) {
        *self.later.lock() = None;
        let postman = self.postman.take().unwrap();
        if postman.thread().id() != thread::current().id() {
            postman.join().unwrap();
        }
    }
}

impl Change for ScriptedChange {
    fn image_bytes(&self, image: Image) -> u64 {
        self.image(image).size()
    }

    fn read(&self, image: Image, range: ByteRange, done: Done<Vec<u8>>) {
        let mut bytes = vec![0; range.len() as usize];
        self.image(image).read_exact_at(&mut bytes, range.start).unwrap();
        self.answer(bytes, done);
    }

    fn next_data(&self, image: Image, from: u64) -> Result<Option<ByteRange>> {
        self.image(image).next_data(from)
    }

    fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>) {
        let below = self.model.extents.partition_point(|extent| extent.end <= from);
        self.answer(self.model.extents.get(below).copied(), done);
    }

    fn read_patch(&self, offset: u64, len: u32, done: Done<Vec<u8>>) {
        self.answer(part(&self.model.patch, offset, u64::from(len)).to_vec(), done);
    }

    fn patch_bytes(&self) -> Option<u64> {
        None
    }

    fn status(&self) -> Status {
        let questions = self.questions.load(Ordering::Relaxed);
        Status { last_error: Some("x".repeat(questions % 7)), ..Status::example() }
    }
}
