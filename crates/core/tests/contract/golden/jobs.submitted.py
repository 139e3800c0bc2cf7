# Types of contract jobs.submitted version 1, written by posthaste.
# For Python 3.9 and later.
from typing import Any, Dict, List, Literal, TypedDict, Union


class JobSubmittedV1Constraints(TypedDict):
    #: In how many of them it must have run.
    min_regions: int
    #: Where the job may run.
    regions: List[str]


#: A benchmark job that runners pick up.
class JobSubmittedV1(TypedDict):
    #: What to run: its name, or what its runner understands.
    benchmark: Union[str, Dict[str, Any]]
    constraints: "JobSubmittedV1Constraints"
    #: Identifies the job everywhere; no other field does.
    jobspec_id: str
    #: Ids of the questions to ask, in order.
    questions: List[str]
    #: Of the job specification, as a name or a number.
    version: Union[str, float]
