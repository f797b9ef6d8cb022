//! The request path does not allocate: buffers are kept for their capacity, records live in rings and slabs. Shown with an
//! allocator that counts, over the engine of `benches/drive`, also where replies overtake each other.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    io::IoSlice,
    sync::Arc,
};

use keyway::engine::{Engine, Event, Scripts, Settings};

#[path = "../benches/drive/mod.rs"]
mod drive;

use drive::{Drive, Workload};

/// The system's allocator, which it asks for everything; it only counts what this thread asks for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Allocations of this thread since it began to count; `None` while it does not. Tests run side by side, one a thread.
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
    /// Who asked for the first few.
    static PLACES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Allocations of which a failed test tells the place.
const PLACES_SHOWN: u64 = 3;

// SAFETY: every call goes to the system's allocator with the arguments as they came. An allocator can only be written with
// `unsafe`, and without one of our own nobody counts: the one place outside of the crate where it is used, and the crate has none.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `place` came from `System`, since `alloc` and `realloc` take it from there.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

fn note() {
    let Some(count) = COUNT.get() else { return };
    // What the note itself needs is not counted.
    COUNT.set(None);
    if count < PLACES_SHOWN {
        let trace = Backtrace::force_capture().to_string();
        let own: Vec<&str> = trace.lines().map(str::trim).filter(|line| line.contains("src/engine/")).collect();
        PLACES.with_borrow_mut(|places| places.push(own.join(" < ")));
    }
    COUNT.set(Some(count + 1));
}

/// Allocations in `turns` turns after as many to warm up in, and the places of the first few.
fn allocations(workload: Workload, clients: usize, turns: usize) -> (u64, Vec<String>) {
    let mut drive = Drive::new(workload, clients);
    let mut play = || (0..turns).map(|_| drive.play()).sum::<usize>();
    play();
    COUNT.set(Some(0));
    play();
    let count = COUNT.take().expect("it was set above");
    (count, PLACES.take())
}

/// Turns of one millisecond each: more than two seconds of the engine's time, so that its once-a-second sweeps are among them.
const TURNS: usize = 2_500;

#[track_caller]
fn check_none(workload: Workload, clients: usize) {
    let (count, places) = allocations(workload, clients, TURNS);
    assert_eq!(count, 0, "{workload:?} with {clients} clients allocated in {TURNS} turns; first at\n{}", places.join("\n"));
}

#[test]
fn a_small_get_allocates_nothing() {
    check_none(Workload::Get { pipeline: 1 }, 50);
}

#[test]
fn a_small_set_allocates_nothing() {
    check_none(Workload::Set { pipeline: 1 }, 50);
}

#[test]
fn a_pipeline_whose_replies_overtake_each_other_allocates_nothing() {
    check_none(Workload::Get { pipeline: 16 }, 50);
    check_none(Workload::Set { pipeline: 16 }, 50);
}

#[test]
fn a_command_split_over_many_slots_allocates_nothing() {
    check_none(Workload::Mget { keys: 10 }, 50);
    check_none(Workload::Mset { keys: 10 }, 50);
    check_none(Workload::Mget { keys: 100 }, 5);
}

/// One message to a thousand subscribers, half of them in each protocol, again and again.
#[test]
fn a_message_to_many_subscribers_allocates_nothing() {
    const SUBSCRIBERS: u64 = 1000;
    let mut engine = Engine::new(Settings::default(), Arc::new(Scripts::new(0)), 1, 0);
    engine.map_published(Arc::new(drive::three_masters()));
    let lane = {
        let first = engine.client_open(1, "127.0.0.1:1", "127.0.0.1:2");
        engine.client_bytes(first, b"SUBSCRIBE news\r\n");
        let Some(Event::Dial { lane, .. }) = engine.next_event() else { panic!("no lane is dialled") };
        assert!(engine.lane_connected(lane));
        for answer in [&b"+OK\r\n"[..], b">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"] {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = engine.lane_chunks(lane, &mut slices);
            let written = slices[..count].iter().map(|slice| slice.len()).sum();
            engine.lane_wrote(lane, written);
            engine.lane_bytes(lane, answer);
        }
        lane
    };
    for id in 2..=SUBSCRIBERS {
        let client = engine.client_open(id, "127.0.0.1:1", "127.0.0.1:2");
        engine.client_bytes(client, if id % 2 == 0 { b"SUBSCRIBE news\r\n" } else { b"HELLO 3\r\nSUBSCRIBE news\r\n" });
    }
    let (mut dirty, mut now, mut told) = (Vec::new(), 0, 0);
    let mut play = |turns: usize| {
        for _ in 0..turns {
            now += 1_000;
            engine.set_now(now);
            engine.tick();
            engine.lane_bytes(lane, b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
            engine.take_dirty_clients(&mut dirty);
            for client in dirty.drain(..) {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = engine.client_chunks(client, &mut slices);
                let written: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                engine.client_wrote(client, written);
                told += written;
            }
        }
    };
    play(TURNS);
    COUNT.set(Some(0));
    let began = std::time::Instant::now();
    play(TURNS);
    let taken = began.elapsed();
    let count = COUNT.take().expect("it was set above");
    println!("{} ns a message and subscriber", taken.as_nanos() / (TURNS as u128 * u128::from(SUBSCRIBERS)));
    assert_eq!(count, 0, "{TURNS} messages; first at\n{}", PLACES.take().join("\n"));
    assert!(told > 2 * TURNS * SUBSCRIBERS as usize * 35, "every subscriber was told each message: {told}");
}
