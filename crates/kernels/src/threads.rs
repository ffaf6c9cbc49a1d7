//! How work is cut over threads: a pool of persistent workers and the ways tasks share memory.
//!
//! Which thread runs which task is left to chance; no result may depend on it. An operation
//! therefore gives each task its own part of the output and never adds across tasks.
#![expect(
    unsafe_code,
    reason = "the pool erases the lifetime of a job, and tasks write disjoint parts of one slice"
)]

use std::any::Any;
use std::marker::PhantomData;
use std::mem;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread watches for work before it sleeps. The operations of one layer follow
/// each other within a few microseconds; waking a sleeping thread costs more than that.
const SPIN: Duration = Duration::from_micros(50);

/// A fixed set of threads that run the tasks of one job at a time.
///
/// The thread that calls [`run`](ThreadPool::run) works too, so a pool of one thread starts none.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a job: the pool runs one at a time.
    turn: Mutex<()>,
}

impl ThreadPool {
    /// Starts `threads - 1` workers; the caller of `run` is the other one.
    ///
    /// # Panics
    /// If the operating system refuses a thread.
    pub fn new(threads: NonZeroUsize) -> ThreadPool {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads.get())
            .map(|worker| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(worker))
            })
            .collect();
        ThreadPool {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// How many threads work on a job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(task, worker)` once for each task in `0..tasks` and returns when all are done.
    ///
    /// Tasks start in ascending order, each on the next free thread; `worker` is in
    /// `0..self.threads()` and no two tasks of one call run at the same time under one number.
    /// One task, or a pool of one thread, runs on the calling thread. Calls from several threads
    /// take turns. A task must not call `run` on the pool that runs it: it would wait for itself.
    ///
    /// # Panics
    /// With the payload of a task that panicked, after the others are done; the pool stays usable.
    pub fn run(&self, tasks: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| work(task, 0));
            return;
        }
        let turn = lock(&self.turn);
        let job = Arc::new(Job::new(tasks, work));
        self.shared.publish(Some(Arc::clone(&job)));
        job.work_off(0);
        job.wait();
        drop(turn);
        let payload = lock(&job.panic).take();
        if let Some(payload) = payload {
            panic::resume_unwind(payload);
        }
    }

    /// Runs `work(index, chunk)` for each chunk of `chunk_len` elements of `data`; the last one
    /// may be shorter.
    pub(crate) fn for_each_chunk<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        work: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let nothing = Chunks::new(&mut [(); 0], 1);
        self.for_each_of_both(Chunks::new(data, chunk_len), work, nothing, &|_, _| {});
    }

    /// The same for the chunks of two slices, in one job.
    pub(crate) fn for_each_of_both<T: Send, U: Send>(
        &self,
        first: Chunks<'_, T>,
        first_work: &(dyn Fn(usize, &mut [T]) + Sync),
        second: Chunks<'_, U>,
        second_work: &(dyn Fn(usize, &mut [U]) + Sync),
    ) {
        let count = first.count();
        self.run(count + second.count(), &|task, _| {
            // SAFETY: each task runs once, so no chunk is asked for twice.
            unsafe {
                match task.checked_sub(count) {
                    None => first_work(task, first.get(task)),
                    Some(task) => second_work(task, second.get(task)),
                }
            }
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.publish(None);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

/// What the workers watch.
#[derive(Default)]
struct Shared {
    /// Counts the published jobs. Changes under the lock of `slot`, is read without it.
    generation: AtomicU64,
    slot: Mutex<Slot>,
    wake: Condvar,
}

#[derive(Default)]
struct Slot {
    /// The newest job; `None` after a change of generation tells the workers to stop.
    job: Option<Arc<Job>>,
    sleepers: usize,
}

impl Shared {
    fn publish(&self, job: Option<Arc<Job>>) {
        let mut slot = lock(&self.slot);
        slot.job = job;
        self.generation.fetch_add(1, Ordering::Release);
        if slot.sleepers > 0 {
            self.wake.notify_all();
        }
    }

    fn serve(&self, worker: usize) {
        let mut seen = 0;
        while let Some(job) = self.next_job(&mut seen) {
            job.work_off(worker);
        }
    }

    fn next_job(&self, seen: &mut u64) -> Option<Arc<Job>> {
        let since = Instant::now();
        while self.generation.load(Ordering::Acquire) == *seen && since.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        let mut slot = lock(&self.slot);
        while self.generation.load(Ordering::Acquire) == *seen {
            slot.sleepers += 1;
            slot = self.wake.wait(slot).unwrap_or_else(PoisonError::into_inner);
            slot.sleepers -= 1;
        }
        *seen = self.generation.load(Ordering::Acquire);
        slot.job.clone()
    }
}

/// One call of `run`.
struct Job {
    tasks: usize,
    /// Points into the frame of `run`, which returns only when `finished` reaches `tasks`.
    work: *const (dyn Fn(usize, usize) + Sync),
    next: AtomicUsize,
    finished: AtomicUsize,
    caller: Thread,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` points to a `Sync` closure, and `Job::work_off` says why it is alive when called.
unsafe impl Send for Job {}
// SAFETY: as above; every other field is `Sync`.
unsafe impl Sync for Job {}

impl Job {
    fn new<'a>(tasks: usize, work: &'a (dyn Fn(usize, usize) + Sync + 'a)) -> Job {
        let work: *const (dyn Fn(usize, usize) + Sync + 'a) = work;
        Job {
            tasks,
            // SAFETY: only the lifetime changes; `Job::work_off` keeps to the real one.
            work: unsafe {
                mem::transmute::<
                    *const (dyn Fn(usize, usize) + Sync + 'a),
                    *const (dyn Fn(usize, usize) + Sync + 'static),
                >(work)
            },
            next: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            caller: thread::current(),
            panic: Mutex::new(None),
        }
    }

    /// Runs tasks until none is left to start.
    fn work_off(&self, worker: usize) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: this task is not finished, so `run` has not returned and the closure
                // that it borrowed is alive. A worker that comes late starts no task.
                (unsafe { &*self.work })(task, worker);
            }));
            if let Err(payload) = outcome {
                lock(&self.panic).get_or_insert(payload);
            }
            let finished = self.finished.fetch_add(1, Ordering::AcqRel) + 1;
            if finished == self.tasks && worker != 0 {
                self.caller.unpark();
            }
        }
    }

    /// Returns when every task is finished; the caller's own part is already done.
    fn wait(&self) {
        let since = Instant::now();
        while self.finished.load(Ordering::Acquire) < self.tasks {
            if since.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                thread::park();
            }
        }
    }
}

/// A slice whose disjoint parts are written by different tasks.
pub(crate) struct DisjointSlice<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: sharing it only hands out disjoint `&mut [T]`, which may cross threads for `T: Send`.
unsafe impl<T: Send> Sync for DisjointSlice<'_, T> {}

impl<'a, T> DisjointSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> DisjointSlice<'a, T> {
        DisjointSlice {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// One part of the slice.
    ///
    /// # Safety
    /// Parts that are alive at the same time must not overlap.
    #[expect(
        clippy::mut_from_ref,
        reason = "the contract forbids overlapping parts"
    )]
    #[inline]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is inside the slice, which is borrowed mutably for 'a; the caller
        // promises that no other live part overlaps it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// A slice in chunks of `len` elements, the last one maybe shorter.
pub(crate) struct Chunks<'a, T> {
    slice: DisjointSlice<'a, T>,
    len: usize,
}

impl<'a, T> Chunks<'a, T> {
    pub(crate) fn new(slice: &'a mut [T], len: usize) -> Chunks<'a, T> {
        Chunks {
            slice: DisjointSlice::new(slice),
            len,
        }
    }

    fn count(&self) -> usize {
        self.slice.len.div_ceil(self.len)
    }

    /// The chunk of that index.
    ///
    /// # Safety
    /// It may be alive once at a time.
    #[expect(clippy::mut_from_ref, reason = "the contract forbids it twice")]
    unsafe fn get(&self, index: usize) -> &mut [T] {
        let start = index * self.len;
        // SAFETY: chunks do not overlap; the caller answers for this one.
        unsafe {
            self.slice
                .range(start..self.slice.len.min(start + self.len))
        }
    }
}

/// Memory that each worker reuses from task to task and from call to call.
///
/// The locks are never contended: a worker takes only its own.
#[derive(Default)]
pub(crate) struct PerWorker<T> {
    items: Vec<Mutex<T>>,
}

impl<T: Default> PerWorker<T> {
    /// Makes room for `threads` workers.
    pub(crate) fn prepare(&mut self, threads: usize) {
        if self.items.len() < threads {
            self.items.resize_with(threads, Mutex::default);
        }
    }

    pub(crate) fn of(&self, worker: usize) -> MutexGuard<'_, T> {
        lock(&self.items[worker])
    }
}

/// Takes a lock whose content stays valid when a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new(NonZeroUsize::new(threads).unwrap())
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = pool(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let runs: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, worker| {
                    assert!(worker < threads);
                    runs[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
        for threads in [1, 2, 3] {
            let pool = pool(threads);
            for _ in 0..20 {
                let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                    pool.run(8, &|task, _| assert!(task != 5, "task five"));
                }));
                let payload = outcome.unwrap_err();
                assert_eq!(payload.downcast_ref::<&str>(), Some(&"task five"));
                let count = AtomicUsize::new(0);
                pool.run(8, &|_, _| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(count.into_inner(), 8);
            }
        }
    }

    #[test]
    fn calls_from_several_threads_take_turns() {
        let pool = pool(3);
        let busy: Vec<_> = (0..pool.threads()).map(|_| Mutex::new(())).collect();
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(16, &|_, worker| {
                            let _mine = busy[worker].try_lock().expect("one task per worker");
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * 50 * 16);
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = pool(3);
        let mut data = vec![0_usize; 1003];
        pool.for_each_chunk(&mut data, 10, &|index, chunk| chunk.fill(index + 1));
        assert!(data.iter().enumerate().all(|(i, &mark)| mark == i / 10 + 1));
    }

    #[test]
    fn chunks_of_two_slices_are_one_job() {
        let pool = pool(3);
        let (mut first, mut second) = (vec![0_usize; 1003], vec![0_u8; 7]);
        pool.for_each_of_both(
            Chunks::new(&mut first, 10),
            &|index, chunk| chunk.fill(index + 1),
            Chunks::new(&mut second, 1),
            &|index, chunk| chunk[0] = index as u8 + 1,
        );
        assert!(
            first
                .iter()
                .enumerate()
                .all(|(i, &mark)| mark == i / 10 + 1)
        );
        assert_eq!(second, [1, 2, 3, 4, 5, 6, 7]);
    }
}
