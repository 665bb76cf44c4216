//! Whether a record that is refused alone is at fault, or the receiver refuses all: the decisions, apart from the sending.
//!
//! A receiver that refuses everything must not empty the log into the dead-letter file. So a refused record is a *suspect* until the receiver
//! has accepted another record after it. At the end of a page no other is at hand, and a stand-in of our own is sent. The stand-in is enough where
//! the receiver has accepted a record of the same page, and else for one lone record. A long row of suspects is the receiver's doing.

/// So many records in a row may be at fault themselves.
const LONGEST_ROW: usize = 16;

/// A record that was refused alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Which of the page's events it is.
    pub(super) index: usize,
    /// What the receiver answered.
    pub(super) reason: String,
}

/// What is to be done about the suspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    GoOn,
    /// A stand-in is sent. If it is refused, the receiver refuses all.
    SendStandIn,
    /// The receiver refuses all, whatever it says to stand-ins.
    BlameReceiver,
}

/// What speaks for and against the records of one attempt.
#[derive(Debug)]
pub(super) struct Evidence {
    suspects: Vec<Suspect>,
    /// Whether the receiver has accepted a record of this page.
    has_accepted: bool,
    /// Whether a stand-in may convict a suspect although it has not: no other was convicted so since a record was accepted.
    may_convict_alone: bool,
}

impl Evidence {
    pub(super) fn new(has_accepted: bool, may_convict_alone: bool) -> Self {
        Self { suspects: Vec::new(), has_accepted, may_convict_alone }
    }

    /// A record was refused alone.
    pub(super) fn refused(&mut self, suspect: Suspect) {
        self.suspects.push(suspect);
    }

    /// Other records were accepted: gives the suspects, which are at fault themselves.
    pub(super) fn accepted(&mut self) -> Vec<Suspect> {
        self.has_accepted = true;
        std::mem::take(&mut self.suspects)
    }

    /// What is to be done about the suspects. `is_last`: no other record follows.
    pub(super) fn step(&self, is_last: bool) -> Step {
        match self.suspects.len() {
            0 => Step::GoOn,
            length if length > LONGEST_ROW => Step::BlameReceiver,
            // At the second one, so that a receiver that refuses everything is found out early.
            length if is_last || length == 2 => Step::SendStandIn,
            _ => Step::GoOn,
        }
    }

    /// A stand-in was accepted, and no other record follows: gives the suspects that are at fault themselves; none where that is not enough.
    pub(super) fn stand_in_accepted(&mut self) -> Vec<Suspect> {
        let is_enough = self.has_accepted || (self.may_convict_alone && self.suspects.len() == 1);
        if is_enough { std::mem::take(&mut self.suspects) } else { Vec::new() }
    }

    /// The suspect that was refused last.
    pub(super) fn last(&self) -> Option<&Suspect> {
        self.suspects.last()
    }

    /// Whether nothing speaks against the receiver.
    pub(super) fn is_clear(&self) -> bool {
        self.suspects.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(index: usize) -> Suspect {
        Suspect { index, reason: String::new() }
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
