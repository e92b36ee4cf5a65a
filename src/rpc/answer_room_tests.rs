use std::collections::VecDeque;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::*;

const PAGE: usize = 10_000;

/// So many connections with one bound.
fn connections<const N: usize>(limit: usize) -> [Option<Arc<Connection>>; N] {
    let held = HeldAnswers::new(limit);
    std::array::from_fn(|_| Some(Connection::new(held.clone())))
}

fn stream_of(connection: &mut Option<Arc<Connection>>) -> RoomOfStream {
    share::around(connection, || RoomOfStream::of_this_call(PAGE))
}

#[test]
fn the_room_that_is_kept_for_an_answer_is_nobody_elses() {
    let mut connections = [0; 2].map({
        let held = HeldAnswers::new(6 * PAGE);
        move |_| Some(Connection::new(held.clone()))
    });
    let held = connections[0].as_ref().unwrap().all_answers.clone();
    let [one, two] = &mut connections;
    let first = share::around(one, || room_for(PAGE)).unwrap();
    assert_eq!(held.bytes(), PAGE);
    assert!(share::around(one, || room_for(PAGE)).is_err(), "no more than the connection's share");
    let second = share::around(two, || room_for(5 * PAGE)).unwrap();
    assert!(share::around(one, || room_for(SMALL)).is_ok_and(|room| room.is_none()), "it is not charged");
    drop(first);
    assert!(share::around(one, || room_for(PAGE + 1)).is_err(), "no more than the bound on all");
    drop(second);
    assert_eq!(held.bytes(), 0);
    assert!(room_for(usize::MAX).is_ok(), "where nothing is held nothing is refused");
}

#[tokio::test]
async fn a_stream_waits_for_room_behind_those_that_came_before_it() {
    // A lone connection gets a fifth: two pages.
    let [mut connection] = connections(10 * PAGE);
    let held = connection.as_ref().unwrap().all_answers.clone();
    let streams: Vec<_> = (0..6).map(|_| stream_of(&mut connection)).collect();
    let mut waiting: VecDeque<_> = streams.iter().map(|stream| Box::pin(stream.wait())).collect();
    let mut rooms = VecDeque::new();
    for _ in 0..2 {
        rooms.push_back(waiting.pop_front().unwrap().now_or_never().expect("there is room"));
    }
    for late in &mut waiting {
        assert!(late.now_or_never().is_none(), "more than the share");
    }
    // One of them goes away without having had any.
    drop(waiting.pop_front());
    while let Some(next) = waiting.pop_front() {
        drop(rooms.pop_front());
        for later in &mut waiting {
            assert!(later.now_or_never().is_none(), "it was not its turn");
        }
        rooms.push_back(next.now_or_never().expect("it is its turn, and there is room"));
        assert_eq!(held.bytes(), 2 * PAGE);
    }
    drop(rooms);
    assert_eq!(held.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_is_woken_by_its_own_connection_at_once_and_by_others_a_moment_later() {
    for is_own in [true, false] {
        let [mut one, mut two] = connections(2 * PAGE);
        let stream = stream_of(&mut one);
        let holds = if is_own { one } else { two.take() }.unwrap();
        let room = Charge::new(&holds, 2 * PAGE, false);
        assert!(room.is_some());
        let begun = Instant::now();
        let waiting = tokio::spawn(async move { stream.wait().await.is_some() });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(room);
        assert!(waiting.await.unwrap());
        let waited = begun.elapsed();
        assert!(if is_own { waited.is_zero() } else { waited <= LOOK_AGAIN }, "{waited:?}");
    }
}

#[tokio::test]
async fn where_nothing_is_held_no_stream_waits() {
    assert!(RoomOfStream::of_this_call(usize::MAX).wait().await.is_none());
}
