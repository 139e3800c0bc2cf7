// Types of contract jobs.submitted version 1, written by posthaste.

export interface JobSubmittedV1Constraints {
  /** In how many of them it must have run. */
  min_regions: number;
  /** Where the job may run. */
  regions: string[];
}

/** A benchmark job that runners pick up. */
export interface JobSubmittedV1 {
  /** What to run: its name, or what its runner understands. */
  benchmark: string | { [name: string]: unknown };
  constraints: JobSubmittedV1Constraints;
  /** Identifies the job everywhere; no other field does. */
  jobspec_id: string;
  /** Ids of the questions to ask, in order. */
  questions: string[];
  /** Of the job specification, as a name or a number. */
  version: string | number;
}
