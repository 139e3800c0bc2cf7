# Types of contract jobs.receipt version 1, written by posthaste.
# For Python 3.9 and later.
from typing import Any, Dict, List, Literal, TypedDict, Union


class JobReceiptV1Response(TypedDict):
    question: str
    question_id: str
    response: str


class JobReceiptV1Responses(TypedDict):
    responses: List["JobReceiptV1Response"]


class JobReceiptV1Nested(TypedDict):
    data: "JobReceiptV1Responses"


class JobReceiptV1Output(TypedDict):
    #: The responses, or the same one level further in, as older runners send them.
    data: Union["JobReceiptV1Responses", "JobReceiptV1Nested"]


#: What a runner answered to each question of a job.
class JobReceiptV1(TypedDict):
    output: "JobReceiptV1Output"
