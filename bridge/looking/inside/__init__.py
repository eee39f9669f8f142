"""What runs inside the kernel, in a subshell, while the user's cell may run: it tells of objects and changes nothing.

The one rule: nothing of the user's is ever called, no `__repr__`, `__len__`, `__eq__`, property, descriptor, metaclass.
So every attribute is read through the type that is known to hold it (`type.__dict__["__mro__"]`), every table of names
by going through it (looking a name up would compare it with the user's), and only objects whose type is exactly one of
Python's own, of numpy's static types or of pandas' are described; of others their type's name.

The modules are sent as text and executed in one dictionary, from the lowest up; what they import from each other under
`TYPE_CHECKING` is there by then. They import nothing that a kernel has not imported already and run on Python 3.8 and
later. An answer is JSON; nothing may be raised, because IPython would keep it as the user's last exception.
"""
