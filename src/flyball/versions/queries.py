"""The rows of a query as a frame: any database that SQLAlchemy speaks to."""

from __future__ import annotations

from typing import Any

import polars as pl
import sqlalchemy as sa

from flyball.errors import Invalid, Unavailable


def rows_of(query: str, database: str) -> tuple[pl.DataFrame, dict[str, str]]:
    """The rows, and where they came from (the password left out).

    >>> rows_of("select 1 as one", "sqlite://")[0].rows()
    [(1,)]
    """
    try:
        url = sa.make_url(database)
    except sa.exc.ArgumentError as error:
        raise Invalid(
            f"{database!r} is not the URL of a database",
            "like postgresql://user@host/name or sqlite:///file.db",
        ) from error
    shown = url.render_as_string(hide_password=True)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        engine = sa.create_engine(url)
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"no driver for {url.drivername}: {error.name} is not installed", f"pip install {error.name}"
        ) from error
    except sa.exc.NoSuchModuleError as error:
        raise Invalid(
            f"SQLAlchemy knows no database {url.drivername!r}", "check the URL's beginning"
        ) from error
    try:
        with engine.connect() as connection:
            frame: Any = pl.read_database(sa.text(query), connection, infer_schema_length=None)
    except sa.exc.OperationalError as error:
        raise Unavailable(f"{shown} does not answer: {error.orig}", "is it up, and the URL right?") from error
    except sa.exc.SQLAlchemyError as error:
        raise Invalid(
            f"{shown} refuses the query: {getattr(error, 'orig', None) or error}",
            "try it in the database's own shell",
        ) from error
    except pl.exceptions.PolarsError as error:
        raise Invalid(f"the rows can't become a table: {error}", "cast the column in the query") from error
    finally:
        engine.dispose()
    return frame, {"query": query, "database": shown}
