"""What schemathesis has to know of Posthaste beside its description."""

import atexit
import collections
import copy
import json
import os

import schemathesis
from schemathesis.core import transport

# A stream begins with its place, an event without data, and may say no more for long: that is enough to see that it
# was let in.
transport._carries_data = lambda block: True

# Rules that JSON Schema cannot tell, or that depend on what the database holds: a request that keeps the schema may
# be refused for them. By the refusal's code, its field, and what its detail begins with.
RULES = [
    # What a page has answered as `next`, and a stream as an event's id.
    ("bad-parameter", "cursor", "cursor must be the `next`"),
    ("bad-parameter", "since", "since must be `now`"),
    ("bad-parameter", "last-event-id", "last-event-id must be"),
    # What a stream's id names may be swept by now.
    ("stream-gone", "since", ""),
    # Years that no database knows, in any list.
    ("bad-parameter", "since", "since must be a time"),
    ("bad-parameter", "until", "until must be a time"),
    ("invalid-field", "since", "since must be a time"),
    ("invalid-field", "until", "until must be a time"),
    ("invalid-field", "deliver_at", "deliver_at must be a time"),
    # Fields that depend on each other.
    ("bad-parameter", "since", "since must be no later than until"),
    ("invalid-field", "since", "since must be no later than until"),
    ("bad-parameter", "header", "headers are looked for within at most 24 hours"),
    ("invalid-field", "all", "all must be true where no condition is given"),
    ("invalid-field", "rate", "rate must be left out"),
    ("invalid-field", "payload_base64", "payload"),
    ("invalid-field", "id", "id must not be given with an Idempotency-Key"),
    ("invalid-field", "token", "token must not be given with an Idempotency-Key"),
    ("invalid-field", "token", "token must not begin with api:"),
    ("idempotency-key-reused", "idempotency-key", ""),
    # What there is.
    ("invalid-field", "to", "to must be"),
    ("contract-broken", "payload", ""),
    # No text in it may have U+0000, at any depth.
    ("invalid-field", "metadata", "metadata must be"),
    # A machine's guards.
    ("step-guarded", None, ""),
    # Names of headers, and their number and size.
    ("invalid-field", "headers", "header"),
]

# Of each operation, how often it was answered with which status.
answers = collections.defaultdict(collections.Counter)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Asks for what every answer has, and lets no answer have fields that its description does not name."""
    for item in raw_schema["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                require_id(response)
    components = raw_schema["components"]
    for response in components["responses"].values():
        require_id(response)
    whole = copy.deepcopy(components["schemas"])
    for schema in components["schemas"].values():
        for part in schema.get("allOf", []):
            if "$ref" in part:
                part.update(whole[part.pop("$ref").rsplit("/", 1)[1]])
        if "allOf" in schema or ("properties" in schema and "additionalProperties" not in schema):
            schema["unevaluatedProperties"] = False


def require_id(response):
    if "x-request-id" in response.get("headers", {}):
        response["headers"]["x-request-id"]["required"] = True


@schemathesis.hook
def before_call(context, case, kwargs):
    """Has dead letters of one key alone changed together, or soon none would be left to be shown."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    is_of_many = case.operation.path in ("/api/v1/dead-letters/discard", "/api/v1/dead-letters/replay")
    if is_of_many and is_valid and isinstance(case.body, dict):
        case.body = {**case.body, "key": "k5"}


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Accepts that a valid request was refused for one of the rules."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    problem = json.loads(response.content)
    told = (problem["code"], problem.get("field"))
    return not any(told == rule[:2] and problem["detail"].startswith(rule[2]) for rule in RULES)


@schemathesis.hook
def after_call(context, case, response):
    answers[case.operation.label][str(response.status_code)] += 1


@atexit.register
def write_answers():
    place = os.environ.get("POSTHASTE_ANSWERS")
    if place:
        with open(place, "w", encoding="utf-8") as file:
            json.dump(answers, file, indent=1, sort_keys=True)
