# Types of contract odd.things version 12, written by posthaste.
# For Python 3.9 and later.
from typing import Any, Dict, List, Literal, TypedDict, Union


OddHostileV12Forest = Union[List["OddHostileV12Node"]]


class _OddHostileV12NodeRequired(TypedDict):
    children: List["OddHostileV12Node"]


#: A tree.
class OddHostileV12Node(_OddHostileV12NodeRequired, total=False):
    forest: "OddHostileV12Forest"
    parent: "OddHostileV12Node"


class OddHostileV12InnerDeep(TypedDict, total=False):
    x: None


#: Stands in another.
class OddHostileV12Inner(TypedDict):
    deep: "OddHostileV12InnerDeep"


class OddHostileV12Merged(TypedDict):
    a: str
    b: str


class OddHostileV12SometimesObject(TypedDict, total=False):
    y: str


_OddHostileV12Required = TypedDict(
    "_OddHostileV12Required",
    {
        "a \"quoted\\ name": bool,
        "class": int,
        #: * / } type Broken = 1 /*
        "id": str,
        "maybe": Union[str, None],
        "tags": List[Literal["a", "b"]],
    },
)


_OddHostileV12Optional = TypedDict(
    "_OddHostileV12Optional",
    {
        "-": bool,
        "__mangled": bool,
        #: Not expressed: the schema names no type.
        "anything": Any,
        "bag": Dict[str, Any],
        "choice": Union[str, "OddHostileV12Node", int],
        "fixed": Any,
        "half": Any,
        #: Stands in another.
        "inner": "OddHostileV12Inner",
        "line\nbreak`\u202e": bool,
        "map": Dict[str, int],
        "merged": "OddHostileV12Merged",
        "min-regions": float,
        "min_regions": float,
        "mixed": Literal["a", 1, None, True],
        #: The first one.
        "node": "OddHostileV12Node",
        "nullable list": Union[None, List[str]],
        #: Not expressed: items that differ by their place.
        "pair": List[Any],
        "sometimes": Union["OddHostileV12SometimesObject", str],
        "state": Literal["open", "closed\"; drop", "x\ny", "`tick`", "*/"],
        "日本": str,
    },
    total=False,
)


#: ends here * / export const broken = 1; /*
#: second line
#: third """ ''' `${x}` \ line
#: # -*- coding: latin-1 -*-
#: //go:build ignore
class OddHostileV12(_OddHostileV12Required, _OddHostileV12Optional):
    pass
