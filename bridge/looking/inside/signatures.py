"""What can be called, and with what: read from code objects and from the text that C code carries.

`inspect.signature` would ask the object for `__signature__` and `__wrapped__`, which may be anybody's properties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import (
        FUNCTION,
        GETSET,
        NAME,
        bound,
        heap,
        in_class,
        is_a,
        known,
        mro,
        name_of,
        own,
        part,
        plain,
        state,
    )

WRAPPERS = 10  # decorators around a function
VARIABLE, KEYWORDS = 4, 8  # CO_VARARGS, CO_VARKEYWORDS


def unwrapped(value: Any) -> Any:
    """The function behind bound methods and decorators, where each is exactly Python's own or numpy's; or None."""
    for _ in range(WRAPPERS):
        kind = type(value)
        if kind is FUNCTION:
            inner = state(value).get("__wrapped__")
            if type(inner) is not FUNCTION:
                return value
            value = inner
        elif kind is known("functools", "_lru_cache_wrapper"):
            value = state(value).get("__wrapped__")
        elif kind is known("types", "MethodType"):
            value = kind.__dict__["__func__"].__get__(value)
        elif not heap(kind) and name_of(kind) == "numpy._ArrayFunctionDispatcher":
            value = value._implementation
        else:
            return None
    return None


def signature_of(value: Any) -> str | None:
    """The signature; None where it cannot be known without running code."""
    if is_a(value, type):
        return class_signature(value)
    function = unwrapped(value)
    if function is not None:
        return written(function)
    return carried(value)


def class_signature(kind: type) -> str | None:
    """How a class is called: its own `__init__` or `__new__`, whichever stands nearer; C code carries a text."""
    for base in mro(kind):
        for name in ("__init__", "__new__"):
            for key, made in list(own(base).items()):
                if type(key) is str and key == name:
                    function = unwrapped(static(made))
                    if function is not None:
                        return written(function, skip=1)
        if not heap(base) and base is not object:
            return carried(base)
    return "()"


def static(value: Any) -> Any:
    """What is in a staticmethod."""
    return staticmethod.__dict__["__func__"].__get__(value) if type(value) is staticmethod else value


def carried(value: Any) -> str | None:
    """The signature that something of C code carries as text."""
    if is_a(value, type):
        found = None if heap(value) else type.__dict__["__text_signature__"].__get__(value)
    else:
        getter = in_class(type(value), "__text_signature__")
        found = getter[0].__get__(value) if getter and type(getter[0]) is GETSET else None
    if type(found) is not str:
        return None
    for bound_to in ("$self", "$module", "$type"):
        for end in (", /, ", ", /)", ", ", ")"):
            found = found.replace("(" + bound_to + end, "()" if end.endswith(")") else "(")
    return found


def written(function: Any, skip: int = 0) -> str:
    """The signature of a function of Python's, from its code object."""
    code = FUNCTION.__dict__["__code__"].__get__(function)
    defaults = FUNCTION.__dict__["__defaults__"].__get__(function) or ()
    named = dict(bound(FUNCTION.__dict__["__kwdefaults__"].__get__(function) or {}))
    notes = annotated(function)
    names = [plain(each) for each in code.co_varnames]
    count, only = code.co_argcount, getattr(code, "co_posonlyargcount", 0)
    shown: list[str] = []
    for place, name in enumerate(names[:count]):
        from_end = place - (count - len(defaults))
        shown.append(parameter(name, notes, defaults[from_end : from_end + 1] if from_end >= 0 else ()))
        if place + 1 == only:
            shown.append("/")
    keywords = names[count : count + code.co_kwonlyargcount]
    rest = names[count + len(keywords) :]
    if code.co_flags & VARIABLE:
        shown.append(parameter("*" + rest.pop(0), notes, ()))
    elif keywords:
        shown.append("*")
    shown += [parameter(name, notes, (named[name],) if name in named else ()) for name in keywords]
    if code.co_flags & KEYWORDS:
        shown.append(parameter("**" + rest.pop(0), notes, ()))
    returns = " -> " + notes["return"] if "return" in notes else ""
    return "(" + ", ".join(shown[skip:]) + ")" + returns


def parameter(name: str, notes: dict[str, str], default: Any) -> str:
    """One parameter, as in the text of a function."""
    note = notes.get(name.lstrip("*"))
    text = name + (": " + note if note else "")
    return text + ((" = " if note else "=") + part(default[0]) if default else "")


def annotated(function: Any) -> dict[str, str]:
    """Annotations as text; where Python computes them when they are read (3.14), none: the source shows them."""
    if "__annotate__" in FUNCTION.__dict__:
        return {}
    found = FUNCTION.__dict__["__annotations__"].__get__(function)
    return {name: annotation(each) for name, each in bound(found)} if is_a(found, dict) else {}


def annotation(value: Any) -> str:
    """One annotation."""
    if type(value) is str:
        return value[:NAME]
    return name_of(value) if is_a(value, type) else part(value)
