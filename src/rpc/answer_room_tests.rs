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

#[test]
fn a_stream_keeps_room_for_a_message_where_there_is_some() {
    // A lone connection gets a fifth: two pages.
    let [mut one, mut two] = connections(10 * PAGE);
    let held = one.as_ref().unwrap().all_answers.clone();
    let streams = [stream_of(&mut one), stream_of(&mut one)];
    let kept = streams.each_ref().map(|stream| stream.keep().expect("there is room"));
    assert_eq!(held.bytes(), 2 * PAGE);
    assert!(streams[0].keep().is_err(), "more than the connection's share");
    let other = stream_of(&mut two);
    let all: Vec<_> = (0..2).map_while(|_| other.keep().ok()).collect();
    assert_eq!(all.len(), 1, "a quarter of what is left is two pages, and then less");
    drop(kept);
    assert!(streams[0].keep().is_ok_and(|kept| kept.is_some()));
    drop(all);
    assert_eq!(held.bytes(), 0);
    assert!(RoomOfStream::of_this_call(usize::MAX).keep().is_ok(), "where nothing is held there is always room");
}
