//! The records that a server keeps, and when each of them becomes visible.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::plan::{Burst, Plan, Told};

/// The start of the simulation by the server's clock; every other time counts from here.
pub(crate) const ORIGIN: Timestamp = Timestamp::constant(1_772_366_400, 437_000_000);

/// Names a content: equal records share it.
pub(crate) type Content = usize;

/// One record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) content: Content,
    /// The time by which the server puts it into a range.
    pub(crate) at: Timestamp,
    /// The time from which the server shows it.
    pub(crate) visible: Timestamp,
}

/// All records of a case.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) records: Vec<Record>,
    texts: Vec<Text>,
    by_text: HashMap<Bytes, Content>,
}

/// What a record looks like.
#[derive(Debug)]
struct Text {
    /// The two spellings in which the server writes it.
    spellings: [Bytes; 2],
    at: Timestamp,
    told: Told,
}

impl History {
    pub(crate) fn of(plan: &Plan) -> Self {
        let mut history = Self::default();
        let longest = i64::from(plan.knobs.delay + plan.beyond_delay) * 1000;
        for burst in &plan.bursts {
            for nth in 0..burst.count {
                let millis =
                    i64::from(burst.at) * 1000 + i64::from(burst.millis) + i64::from(nth) * i64::from(burst.step);
                // Ranges end at whole seconds, so many records should lie there.
                let at = later(ORIGIN, millis - 437);
                let content = history.add_text(burst, at);
                for copy in 0..=burst.copies {
                    let late = (u32::from(burst.late) + 37 * u32::from(copy)) % 101;
                    let visible = later(at, longest * i64::from(late) / 100);
                    history.records.push(Record { content, at, visible });
                }
            }
        }
        history
    }

    fn add_text(&mut self, burst: &Burst, at: Timestamp) -> Content {
        let content = self.texts.len();
        let time = match burst.told {
            Told::Right => Some(at),
            Told::Wrong(seconds) => Some(later(at, i64::from(seconds) * 1000)),
            Told::Nothing => None,
        };
        let time = match (time, content % 3) {
            (None, _) => "\"some day\"".to_owned(),
            (Some(time), 0) => time.as_millisecond().to_string(),
            (Some(time), _) => format!("\"{time:.3}\""),
        };
        let id = format!("r{content}");
        let details = r#""CN=\u00fcber \"x\", ü""#;
        let spellings = [
            format!(r#"{{"id":"{id}","created":{time},"details":{details},"n":[1.50,{content}]}}"#),
            format!(r#"{{ "n": [1.50, {content}] ,"details":{details}, "created" : {time},"id":"{id}"}}"#),
        ]
        .map(Bytes::from);
        for spelling in &spellings {
            self.by_text.insert(spelling.clone(), content);
        }
        self.texts.push(Text { spellings, at, told: burst.told });
        content
    }

    /// The number of contents.
    pub(crate) fn contents(&self) -> usize {
        self.texts.len()
    }

    /// What the record looks like, in one of its two spellings.
    pub(crate) fn text(&self, content: Content, spelling: usize) -> &Bytes {
        &self.texts[content].spellings[spelling % 2]
    }

    /// The content that these bytes belong to; none if they belong to no record.
    pub(crate) fn content(&self, raw: &[u8]) -> Option<Content> {
        self.by_text.get(raw).copied()
    }

    /// Whether the record states a wrong time, so that it may be repeated.
    pub(crate) fn is_misleading(&self, content: Content) -> bool {
        matches!(self.texts[content].told, Told::Wrong(_))
    }

    /// Whether the record states no time.
    pub(crate) fn is_undated(&self, content: Content) -> bool {
        self.texts[content].told == Told::Nothing
    }

    /// The time by which the server puts the record into a range.
    pub(crate) fn time(&self, content: Content) -> Timestamp {
        self.texts[content].at
    }

    /// The number of records that are equal to it, itself included.
    pub(crate) fn equal(&self, content: Content) -> usize {
        self.records.iter().filter(|record| record.content == content).count()
    }

    /// When the last record becomes visible.
    pub(crate) fn all_visible(&self) -> Timestamp {
        self.records.iter().map(|record| record.visible).max().unwrap_or(ORIGIN)
    }
}

fn later(time: Timestamp, millis: i64) -> Timestamp {
    time + SignedDuration::from_millis(millis)
}
