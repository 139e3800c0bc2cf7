// Types of contract jobs.receipt version 1, written by posthaste.

export interface JobReceiptV1Response {
  question: string;
  question_id: string;
  response: string;
}

export interface JobReceiptV1Responses {
  responses: JobReceiptV1Response[];
}

export interface JobReceiptV1Nested {
  data: JobReceiptV1Responses;
}

export interface JobReceiptV1Output {
  /** The responses, or the same one level further in, as older runners send them. */
  data: JobReceiptV1Responses | JobReceiptV1Nested;
}

/** What a runner answered to each question of a job. */
export interface JobReceiptV1 {
  output: JobReceiptV1Output;
}
