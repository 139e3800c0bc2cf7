//! The stages of a course, and what layers two and three look for: pure decisions, no I/O.

/// The machine in `course.toml`.
pub const MACHINE: &str = "course";
/// Where a course is before it is initiated. One without a machine counts as here.
pub const PENDING: &str = "pending";
/// Where a course ends that cannot be generated.
pub const FAILED: &str = "failed";
/// Where a course ends.
pub const COMPLETE: &str = Stage::Generation.complete();

/// A part of the work on a course, with the number that its states have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// 2: each document is processed.
    Documents,
    /// 4: what the course is about is analysed.
    Structure,
    /// 5: the course is written.
    Generation,
}

impl Stage {
    /// In their order.
    pub const ALL: [Self; 3] = [Self::Documents, Self::Structure, Self::Generation];

    /// The topic of its jobs.
    pub const fn topic(self) -> &'static str {
        match self {
            Self::Documents => "document.process",
            Self::Structure => "structure.analyze",
            Self::Generation => "structure.generate",
        }
    }

    /// Its jobs are submitted.
    pub const fn init(self) -> &'static str {
        match self {
            Self::Documents => "stage_2_init",
            Self::Structure => "stage_4_init",
            Self::Generation => "stage_5_init",
        }
    }

    /// A worker is at it.
    pub const fn working(self) -> &'static str {
        match self {
            Self::Documents => "stage_2_processing",
            Self::Structure => "stage_4_analyzing",
            Self::Generation => "stage_5_generating",
        }
    }

    /// It is over.
    pub const fn complete(self) -> &'static str {
        match self {
            Self::Documents => "stage_2_complete",
            Self::Structure => "stage_4_complete",
            Self::Generation => "stage_5_complete",
        }
    }

    /// Where a course in `state` stands to this stage. A course that has failed is past all of them.
    pub fn at(self, state: &str) -> Progress {
        if state == self.init() {
            return Progress::Begun;
        }
        if state == self.working() {
            return Progress::Working;
        }
        let later = Self::ALL.into_iter().skip_while(|stage| *stage != self).skip(1);
        let is_past = state == self.complete()
            || state == FAILED
            || later.into_iter().any(|stage| stage.at(state) != Progress::Before);
        if is_past { Progress::Past } else { Progress::Before }
    }
}

/// Where a course stands to a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The stage has not begun.
    Before,
    /// Its jobs are submitted.
    Begun,
    /// A worker is at it.
    Working,
    /// Nothing is left to do in it.
    Past,
}

/// A layer of defence behind the command, which is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The second: as soon as a job is in the queue.
    Listener,
    /// The third: before a job is handled.
    Worker,
}

impl Layer {
    /// Whether the machine is missing for a job of `stage` whose course is in `state`: the layer then asks for the
    /// stage's first state, and the machine decides whether that is legal.
    ///
    /// A listener may be late, when the course has long gone on: it starts nothing but courses that nobody has started.
    pub fn is_missing(self, stage: Stage, state: &str) -> bool {
        match (self, stage) {
            (Self::Listener, _) | (_, Stage::Documents) => state == PENDING,
            (Self::Worker, stage) => {
                ![stage.init(), stage.working(), stage.complete()].contains(&state)
            }
        }
    }

    /// Who takes the step, in the trail of state events.
    pub const fn initiator(self) -> &'static str {
        match self {
            Self::Listener => "queue-listener",
            Self::Worker => "worker-fallback",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [&str; 11] = [
        "pending",
        "stage_2_init",
        "stage_2_processing",
        "stage_2_complete",
        "stage_4_init",
        "stage_4_analyzing",
        "stage_4_complete",
        "stage_5_init",
        "stage_5_generating",
        "stage_5_complete",
        "failed",
    ];

    fn missing(layer: Layer, stage: Stage) -> Vec<&'static str> {
        STATES.into_iter().filter(|state| layer.is_missing(stage, state)).collect()
    }

    fn all_but(present: &[&str]) -> Vec<&'static str> {
        STATES.into_iter().filter(|state| !present.contains(state)).collect()
    }

    #[test]
    fn r33_stage_2_is_missing_in_pending_alone() {
        assert_eq!(missing(Layer::Worker, Stage::Documents), ["pending"]);
    }

    #[test]
    fn r33_stage_4_is_missing_unless_in_one_of_its_states() {
        let present = ["stage_4_init", "stage_4_analyzing", "stage_4_complete"];
        assert_eq!(missing(Layer::Worker, Stage::Structure), all_but(&present));
    }

    #[test]
    fn r33_stage_5_is_missing_unless_in_one_of_its_states() {
        let present = ["stage_5_init", "stage_5_generating", "stage_5_complete"];
        assert_eq!(missing(Layer::Worker, Stage::Generation), all_but(&present));
    }

    #[test]
    fn r32_listener_starts_only_what_nobody_has_started() {
        for stage in Stage::ALL {
            assert_eq!(missing(Layer::Listener, stage), ["pending"]);
        }
    }

    #[test]
    fn course_is_before_in_or_past_each_stage() {
        use Progress::{Before, Begun, Past, Working};
        let at = |stage: Stage| STATES.map(|state| stage.at(state));
        let past = Past;
        assert_eq!(
            at(Stage::Documents),
            [Before, Begun, Working, past, past, past, past, past, past, past, past]
        );
        assert_eq!(
            at(Stage::Structure),
            [Before, Before, Before, Before, Begun, Working, past, past, past, past, past]
        );
        assert_eq!(
            at(Stage::Generation),
            [Before, Before, Before, Before, Before, Before, Before, Begun, Working, past, past]
        );
    }
}
