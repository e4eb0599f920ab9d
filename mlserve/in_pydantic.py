"""Lets our types be fields of pydantic's models, and bodies and answers of FastAPI's handlers."""


class InPydantic:
    __slots__ = ()
