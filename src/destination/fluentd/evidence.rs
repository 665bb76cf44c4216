//! Decides whether a refused record is at fault, or whether the receiver refuses every record. `sending` does the
//! sending.
//!
//! A receiver that refuses everything must not move the whole log into the dead-letter file. So a refused record is a
//! *suspect* until the receiver has accepted another record after it. At the end of a page there is no other record, so
//! auditsync sends a stand-in of its own. An accepted stand-in convicts the suspects if the receiver has accepted a
//! record of the same page. Otherwise it can convict only a single suspect. After a long row of suspects, the receiver
//! is at fault.
//!
//! An oversized suspect needs an accepted stand-in alone, however many there are. The receiver refused it for a size that
//! usual records do not have, so this cannot empty a log.
//!
//! Recorded sessions may have an address of their own. The answers of one address are no evidence about the other.

/// The most records in a row that may be at fault themselves.
const LONGEST_ROW: usize = 16;

/// One value for the address of recorded sessions, and one for the address of all other events.
#[derive(Debug, Default)]
pub(super) struct ByAddress<T> {
    events: T,
    sessions: T,
}

impl<T> ByAddress<T> {
    /// Makes both values with `make`, which receives whether the value is for sessions.
    pub(super) fn of(make: impl Fn(bool) -> T) -> Self {
        Self { events: make(false), sessions: make(true) }
    }

    pub(super) fn get(&self, is_of_sessions: bool) -> &T {
        if is_of_sessions { &self.sessions } else { &self.events }
    }

    pub(super) fn get_mut(&mut self, is_of_sessions: bool) -> &mut T {
        if is_of_sessions { &mut self.sessions } else { &mut self.events }
    }
}

/// A record that was refused alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Its index among the page's events.
    pub(super) index: usize,
    /// The receiver's answer.
    pub(super) reason: String,
    /// Whether the receiver refused it for its size, and usual records are smaller.
    pub(super) is_oversized: bool,
}

/// The next step for the suspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    GoOn,
    /// Send a stand-in. If the receiver refuses it, the receiver refuses all.
    SendStandIn,
    /// The receiver refuses all, even if it accepts stand-ins.
    BlameReceiver,
}

/// The evidence for and against the records of one attempt.
#[derive(Debug)]
pub(super) struct Evidence {
    suspects: Vec<Suspect>,
    /// Whether the receiver has accepted a record of this page.
    has_accepted: bool,
    /// Whether a stand-in may convict a suspect of usual size on a page without an accepted record. It may, if it
    /// convicted none since the last accepted record.
    may_convict_alone: bool,
}

impl Evidence {
    pub(super) fn new(has_accepted: bool, may_convict_alone: bool) -> Self {
        Self { suspects: Vec::new(), has_accepted, may_convict_alone }
    }

    /// Notes that the receiver refused a record by itself.
    pub(super) fn refused(&mut self, suspect: Suspect) {
        self.suspects.push(suspect);
    }

    /// Notes that the receiver accepted other records. Returns the suspects, which are therefore at fault.
    pub(super) fn accepted(&mut self) -> Vec<Suspect> {
        self.has_accepted = true;
        std::mem::take(&mut self.suspects)
    }

    /// The next step for the suspects. `is_last` means that no other record follows.
    pub(super) fn step(&self, is_last: bool) -> Step {
        match self.of_usual_size() {
            _ if self.is_clear() => Step::GoOn,
            row if row > LONGEST_ROW => Step::BlameReceiver,
            // The second suspect is tried at once, to detect early a receiver that refuses everything.
            row if is_last || row == 2 => Step::SendStandIn,
            _ => Step::GoOn,
        }
    }

    /// The number of suspects that are not oversized.
    fn of_usual_size(&self) -> usize {
        self.suspects.iter().filter(|suspect| !suspect.is_oversized).count()
    }

    /// Notes that the receiver accepted a stand-in when no other record follows. Returns the suspects that are
    /// therefore at fault; none if that evidence is not enough.
    pub(super) fn stand_in_accepted(&mut self) -> Vec<Suspect> {
        let is_enough = self.has_accepted || self.of_usual_size() <= usize::from(self.may_convict_alone);
        if is_enough { std::mem::take(&mut self.suspects) } else { Vec::new() }
    }

    /// The suspect that was refused last.
    pub(super) fn last(&self) -> Option<&Suspect> {
        self.suspects.last()
    }

    /// Whether no suspect is left.
    pub(super) fn is_clear(&self) -> bool {
        self.suspects.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(index: usize) -> Suspect {
        Suspect { index, reason: String::new(), is_oversized: false }
    }

    fn oversized(index: usize) -> Suspect {
        Suspect { is_oversized: true, ..suspect(index) }
    }

    #[test]
    fn a_record_that_is_accepted_convicts_those_refused_before() {
        let mut evidence = Evidence::new(false, false);
        evidence.refused(suspect(3));
        assert_eq!(evidence.step(false), Step::GoOn);
        assert_eq!(evidence.accepted(), [suspect(3)]);
        assert!(evidence.is_clear());
        assert_eq!(evidence.step(true), Step::GoOn);
    }

    #[test]
    fn at_the_end_of_a_page_a_stand_in_convicts_if_the_page_had_accepted_records() {
        let mut evidence = Evidence::new(false, false);
        assert_eq!(evidence.accepted(), []);
        evidence.refused(suspect(8));
        evidence.refused(suspect(9));
        assert_eq!(evidence.step(true), Step::SendStandIn);
        assert_eq!(evidence.stand_in_accepted(), [suspect(8), suspect(9)]);
    }

    #[test]
    fn a_stand_in_alone_convicts_one_record_and_never_a_second() {
        let mut alone = Evidence::new(false, true);
        alone.refused(suspect(0));
        assert_eq!(alone.step(true), Step::SendStandIn);
        assert_eq!(alone.stand_in_accepted(), [suspect(0)]);

        let mut two = Evidence::new(false, true);
        two.refused(suspect(0));
        two.refused(suspect(1));
        assert_eq!(two.stand_in_accepted(), []);
        assert!(!two.is_clear());

        let mut another = Evidence::new(false, false);
        another.refused(suspect(0));
        assert_eq!(another.stand_in_accepted(), []);
    }

    #[test]
    fn a_stand_in_convicts_any_number_of_oversized_records_but_none_of_usual_size_with_them() {
        let mut evidence = Evidence::new(false, false);
        for index in 0..20 {
            evidence.refused(oversized(index));
            assert_eq!(evidence.step(false), Step::GoOn);
        }
        assert_eq!(evidence.step(true), Step::SendStandIn);
        assert_eq!(evidence.stand_in_accepted().len(), 20);

        let mut mixed = Evidence::new(false, false);
        mixed.refused(oversized(0));
        mixed.refused(suspect(1));
        assert_eq!(mixed.stand_in_accepted(), []);
    }

    #[test]
    fn a_long_row_of_refusals_is_the_receivers_doing() {
        let mut evidence = Evidence::new(true, true);
        let steps: Vec<_> = (0..17)
            .map(|index| {
                evidence.refused(suspect(index));
                evidence.step(false)
            })
            .collect();
        assert_eq!(steps.iter().filter(|step| **step == Step::SendStandIn).count(), 1);
        assert_eq!((steps[1], steps[15], steps[16]), (Step::SendStandIn, Step::GoOn, Step::BlameReceiver));
    }
}
