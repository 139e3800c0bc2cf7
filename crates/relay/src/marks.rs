//! What lanes write down in a sink that keeps their places, and how a run goes on from it.
//!
//! Pure: what the sink says of the first lane is compared with what the database says, and decides
//! where the reading begins.

use posthaste_core::{InvalidPlace, MessageId, MessageRef, Place, Position, TickRef, Within};

use crate::{
    parked::is_passed,
    sink::{Mark, Marks},
};

/// What the first lane has handed over beyond its place: everything up to a position of the
/// window, but for a few messages that the sink did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Number of the tick that closes the window.
    head: i64,
    pub(crate) through: Position,
    message: Option<MessageId>,
    /// What is missing, ascending.
    open: Vec<Position>,
}

impl Floor {
    /// After a batch up to `last`, of which the messages at `pending` are still missing. `None`
    /// when everything before `last` is done, and nothing after it was handed over.
    pub(crate) fn behind(
        before: Option<Self>,
        head: i64,
        last: &MessageRef<'_>,
        pending: Vec<Position>,
    ) -> Option<Self> {
        let before = before.filter(|floor| floor.head == head && floor.through > last.position);
        let mut open = pending;
        if let Some(floor) = before {
            open.extend(floor.open.iter().filter(|position| **position > last.position));
            return Some(Self { open, ..floor });
        }
        let (through, message) = (last.position, Some(last.id));
        (!open.is_empty()).then_some(Self { head, through, message, open })
    }

    /// Whether a message of the window that the tick `head` closes has been taken already.
    pub(crate) fn has_taken(&self, head: i64, position: Position) -> bool {
        self.head == head && position <= self.through && !self.is_missing(position)
    }

    /// Whether a message of the window is known to be missing.
    pub(crate) fn is_missing(&self, position: Position) -> bool {
        self.open.binary_search(&position).is_ok()
    }
}

/// The marks of the first lane: its places.
pub(crate) struct PlaceMarks<'a> {
    /// The place before the page.
    pub(crate) before: Place,
    /// The tick that closes the window.
    pub(crate) head: TickRef,
    pub(crate) floor: Option<&'a Floor>,
}

impl PlaceMarks<'_> {
    fn floor(&self) -> Option<&Floor> {
        self.floor.filter(|floor| floor.head == self.head.n)
    }
}

impl Marks for PlaceMarks<'_> {
    fn text(&self, message: &MessageRef<'_>) -> String {
        let floor = self.floor().filter(|floor| floor.through > message.position);
        let (position, id) = match floor {
            Some(floor) => (floor.through, floor.message),
            None => (message.position, Some(message.id)),
        };
        self.before.moved_to(self.head, position, id).to_string()
    }

    fn open(&self) -> &[Position] {
        self.floor().map_or(&[], |floor| &floor.open)
    }
}

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Where the reading begins.
    pub(crate) place: Place,
    /// What of it is done already.
    pub(crate) floor: Option<Floor>,
    /// What the sink has lost of what was settled.
    pub(crate) loss: Option<Loss>,
}

impl Beginning {
    /// Up to where messages of parked keys were passed over.
    pub(crate) fn reached(&self) -> Place {
        let Some(Floor { through, message, .. }) = &self.floor else { return self.place };
        let head = self.place.within.map_or(self.place.base, |within| within.head);
        self.place.moved_to(head, *through, *message)
    }
}

/// What a sink no longer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Everything: it keeps no place for the lane any more.
    Place,
    /// What was published between its place and the settled one: published again.
    Tail,
}

/// Decides where to begin: at the settled place, or where the sink says the lane stands. The sink
/// knows best, unless it has counted fewer calls than were settled: then it has lost some. A place
/// without a count was chosen by a person or the configuration, and holds whatever the sink says.
pub(crate) fn beginning(settled: Place, mark: &Mark) -> Result<Beginning, InvalidPlace> {
    let at_settled =
        Beginning { place: settled.counted(Some(mark.calls)), floor: None, loss: None };
    let Some(counted) = settled.calls else { return Ok(at_settled) };
    let has_lost = mark.calls < counted;
    let Some(marked) = place(mark)? else {
        let loss = has_lost.then_some(Loss::Place);
        return Ok(Beginning { loss, ..at_settled });
    };
    if settled.covers(&marked) && !has_lost {
        return Ok(at_settled);
    }
    let loss = has_lost.then_some(Loss::Tail);
    let Some(Within { head, position }) = marked.within else {
        return Ok(Beginning { place: marked, floor: None, loss });
    };
    let mut open = mark.missing.clone();
    open.sort_unstable();
    // What the database has passed is published, or stands there.
    open.retain(|position| has_lost || !is_passed(&settled, head.n, *position));
    let Some(first) = open.first() else {
        return Ok(Beginning { place: marked, floor: None, loss });
    };
    let place = marked.moved_to(head, first - 1, None);
    let floor = Floor { head: head.n, through: position, message: marked.message, open };
    Ok(Beginning { place, floor: Some(floor), loss })
}

/// The place that the sink keeps for the first lane, if it has come to any.
pub(crate) fn place(mark: &Mark) -> Result<Option<Place>, InvalidPlace> {
    if mark.text.is_empty() {
        return Ok(None);
    }
    Ok(Some(mark.text.parse::<Place>()?.counted(Some(mark.calls))))
}

/// What the second lane hands over in one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // There is one at a time.
pub(crate) enum Again {
    /// Messages of a parked key, the key's place as it was written before them, and behind the last.
    Key(String, Place, Place),
    /// Copies that are due.
    Copies(Vec<(Position, MessageId)>),
}

const KEY: &str = "key ";
const COPIES: &str = "copies ";

impl Again {
    /// What a mark of the second lane says was accepted, as its [`Marks`] wrote it; `None` for
    /// one that says nothing.
    pub(crate) fn accepted(mark: &Mark) -> Option<Self> {
        let is_missing = |position: &Position| mark.missing.contains(position);
        if let Some(rest) = mark.text.strip_prefix(KEY) {
            let (places, key) = rest.split_once('\n')?;
            let (before, place) = places.split_once(';')?;
            let (before, place): (Place, Place) = (before.parse().ok()?, place.parse().ok()?);
            let within = place.within?;
            let through = mark.missing.iter().min().map_or(within.position, |first| first - 1);
            let place = place.moved_to(within.head, through.min(within.position), None);
            return Some(Self::Key(key.to_owned(), before, place));
        }
        let copies = mark.text.strip_prefix(COPIES)?.split(',').map(|copy| {
            let (position, id) = copy.split_once('/')?;
            Some((position.parse().ok()?, id.parse().ok()?))
        });
        let copies: Option<Vec<(Position, MessageId)>> = copies.collect();
        let accepted = copies?.into_iter().filter(|(position, _)| !is_missing(position));
        Some(Self::Copies(accepted.collect()))
    }
}

/// The marks of a parked key: the places behind its messages.
pub(crate) struct KeyMarks<'a> {
    pub(crate) key: &'a str,
    /// The place that the database has of the key.
    pub(crate) written: Place,
    /// The key's place before the batch.
    pub(crate) before: Place,
    pub(crate) head: TickRef,
}

impl Marks for KeyMarks<'_> {
    fn text(&self, message: &MessageRef<'_>) -> String {
        let Self { written, before, head, key } = self;
        let place = before.moved_to(*head, message.position, Some(message.id));
        format!("{KEY}{written};{place}\n{key}")
    }
}

/// The marks of copies that are due: which of them were handed over.
pub(crate) struct CopyMarks<'a> {
    /// All of the batch, in its order.
    pub(crate) copies: &'a [(Position, MessageId)],
}

impl Marks for CopyMarks<'_> {
    fn text(&self, message: &MessageRef<'_>) -> String {
        let last = self.copies.iter().position(|copy| *copy == (message.position, message.id));
        let handed_over = &self.copies[..last.map_or(0, |last| last + 1)];
        let each = handed_over.iter().map(|(position, id)| format!("{position}/{}", id.simple()));
        format!("{COPIES}{}", each.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Headers, Timestamp};

    use super::*;

    fn tick(n: i64) -> TickRef {
        TickRef { n, id: MessageId::from_u128(n as u128) }
    }

    fn message(position: Position) -> MessageRef<'static> {
        MessageRef {
            id: MessageId::from_u128(position as u128),
            position,
            enqueued_at: Timestamp(0),
            topic: "t",
            key: Some("a b\nc"),
            content_type: "a/b",
            correlation_id: None,
            headers: Headers::default(),
            payload: b"p",
        }
    }

    /// The place in the window from tick 3 to 4 behind a message.
    fn inside(position: Position) -> Place {
        Place::at(tick(3)).moved_to(tick(4), position, Some(message(position).id))
    }

    fn mark(calls: i64, place: Place, missing: &[Position]) -> Mark {
        Mark { calls, text: place.to_string(), missing: missing.to_vec() }
    }

    fn settled(place: Place, calls: i64) -> Place {
        place.counted(Some(calls))
    }

    #[test]
    fn sink_that_is_ahead_says_where_to_begin() {
        let begin = beginning(settled(inside(10), 5), &mark(7, inside(30), &[])).unwrap();
        assert_eq!(begin.place, settled(inside(30), 7));
        assert_eq!((begin.floor, begin.loss), (None, None));
    }

    #[test]
    fn settled_place_that_is_ahead_is_begun_at() {
        // Beyond the mark nothing of this subscription was found, or all of it was set aside.
        for place in [inside(40), Place::at(tick(9))] {
            let begin = beginning(settled(place, 7), &mark(7, inside(30), &[20])).unwrap();
            assert_eq!(begin.place, settled(place, 7));
            assert_eq!((begin.floor, begin.loss), (None, None));
        }
    }

    #[test]
    fn what_is_missing_is_read_again_and_what_was_taken_passed_over() {
        let missing = [12, 5, 20];
        let begin = beginning(settled(inside(10), 5), &mark(7, inside(30), &missing)).unwrap();
        assert_eq!(begin.place.within.unwrap().position, 11);
        assert_eq!(begin.reached().within, inside(30).within);
        let floor = begin.floor.unwrap();
        let open: Vec<i64> = (1..=35).filter(|position| !floor.has_taken(4, *position)).collect();
        assert_eq!(open, [12, 20, 31, 32, 33, 34, 35]);
        assert!(!floor.has_taken(5, 13));
    }

    #[test]
    fn place_that_a_person_chose_holds_whatever_the_sink_says() {
        let begin = beginning(inside(10), &mark(7, inside(30), &[20])).unwrap();
        assert_eq!(begin.place, settled(inside(10), 7));
        assert_eq!((begin.floor, begin.loss), (None, None));
    }

    #[test]
    fn sink_that_has_counted_fewer_calls_has_lost_some() {
        let begin = beginning(settled(inside(30), 9), &mark(7, inside(10), &[8])).unwrap();
        assert_eq!((begin.place.within.unwrap().position, begin.loss), (7, Some(Loss::Tail)));
        let begin = beginning(settled(inside(30), 9), &Mark::default()).unwrap();
        assert_eq!((begin.place, begin.loss), (settled(inside(30), 0), Some(Loss::Place)));
        // A lane that has never handed anything over.
        let begin = beginning(settled(Place::beginning(), 0), &Mark::default()).unwrap();
        assert_eq!((begin.place, begin.loss), (settled(Place::beginning(), 0), None));
    }

    #[test]
    fn mark_that_is_no_place_is_an_error() {
        let mark = Mark { text: "nonsense".to_owned(), ..Mark::default() };
        assert!(beginning(settled(inside(1), 0), &mark).is_err());
    }

    #[test]
    fn mark_stays_at_the_floor_until_it_is_passed() {
        let floor = Floor::behind(None, 4, &message(30), vec![12, 20]).unwrap();
        let marks = PlaceMarks { before: inside(2), head: tick(4), floor: Some(&floor) };
        assert_eq!(marks.text(&message(12)), inside(30).to_string());
        assert_eq!(marks.text(&message(31)), inside(31).to_string());
        assert_eq!(marks.open(), [12, 20]);
        // A batch inside: what lies behind it stays open.
        let inner = Floor::behind(Some(floor), 4, &message(15), vec![]).unwrap();
        assert!(inner.has_taken(4, 12) && !inner.has_taken(4, 20));
        assert_eq!(Floor::behind(Some(inner), 4, &message(30), vec![]), None);
    }

    #[test]
    fn second_lane_reads_what_it_has_written() {
        let key = KeyMarks { key: "a b\nc", written: inside(1), before: inside(2), head: tick(4) };
        let of = |text: String, missing: &[Position]| {
            Again::accepted(&Mark { calls: 1, text, missing: missing.to_vec() })
        };
        let accepted = of(key.text(&message(9)), &[]);
        assert_eq!(
            accepted,
            Some(Again::Key("a b\nc".to_owned(), inside(1), inside(9).moved_to(tick(4), 9, None)))
        );
        let Some(Again::Key(_, _, place)) = of(key.text(&message(9)), &[7, 9]) else { panic!() };
        assert_eq!(place.within.unwrap().position, 6);

        let copies = [3, 5, 8].map(|position| (position, message(position).id));
        let marks = CopyMarks { copies: &copies };
        let accepted = of(marks.text(&message(5)), &[3]);
        assert_eq!(accepted, Some(Again::Copies(vec![copies[1]])));
        assert_eq!(of("nonsense".to_owned(), &[]), None);
    }
}
