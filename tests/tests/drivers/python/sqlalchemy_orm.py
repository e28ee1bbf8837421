"""SQLAlchemy over psycopg 3 and over asyncpg. Variables: PORT, DATABASE, LOGIN (trust or scram). Prints what it has seen; then "done"."""

import asyncio
import os
import ssl
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

SCRAM = os.environ["LOGIN"] == "scram"
USER = "alice:secret" if SCRAM else "postgres"
PLACE = f"{USER}@127.0.0.1:{os.environ['PORT']}/{os.environ['DATABASE']}"


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    things: Mapped[list["Thing"]] = relationship(back_populates="owner", cascade="all, delete-orphan")


class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("owner.id"))
    size: Mapped[int]
    note: Mapped[str | None]
    owner: Mapped[Owner] = relationship(back_populates="things")


def reflected(engine):
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    again = sa.MetaData()
    again.reflect(engine)
    for table in again.sorted_tables:
        print("table", table.name, [(column.name, str(column.type), column.nullable) for column in table.columns])
    inspector = sa.inspect(engine)
    print("inspected", inspector.get_unique_constraints("owner"), inspector.get_foreign_keys("thing"))


def units(engine):
    with Session(engine) as session:
        owners = [Owner(name=f"owner {n}", things=[Thing(size=size) for size in range(n)]) for n in range(20)]
        session.add_all(owners)
        session.commit()
        print("ids", [owner.id for owner in owners[:3]])
        found = session.scalars(sa.select(Owner).options(selectinload(Owner.things)).order_by(Owner.id)).all()
        print("loaded", [len(owner.things) for owner in found])
        nested = session.begin_nested()
        session.add(Owner(name="owner 1"))
        try:
            session.flush()
        except sa.exc.IntegrityError as error:
            nested.rollback()
            print("refused", error.orig.sqlstate)
        found[3].things.clear()
        session.commit()
        print("things", session.scalar(sa.select(sa.func.count()).select_from(Thing)))


def many(engine):
    with engine.begin() as connection:
        rows = [{"owner_id": 5, "size": n, "note": f"note {n}"} for n in range(1500)]
        connection.execute(sa.insert(Thing), rows)
        returned = connection.execute(sa.insert(Thing).returning(Thing.size, sort_by_parameter_order=True), rows[:40])
        print("returned", [size for (size,) in returned][:5])
        connection.execute(
            sa.update(Thing).where(Thing.size == sa.bindparam("old")).values(note=sa.bindparam("new")),
            [{"old": n, "new": "changed"} for n in range(30)],
        )
        print("changed", connection.scalar(sa.select(sa.func.count()).where(Thing.note == "changed")))


def streamed(engine):
    with engine.connect().execution_options(stream_results=True, max_row_buffer=50) as connection:
        result = connection.execute(sa.select(Thing.size).order_by(Thing.id))
        print("streamed", sum(row.size for portion in result.partitions(64) for row in portion))
    with engine.connect().execution_options(yield_per=100) as connection:
        print("yielded", sum(connection.scalars(sa.select(Thing.size))))


def levels(engine):
    for level in ("SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT", "READ COMMITTED"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            print("level", level, connection.scalar(sa.text("show transaction_isolation")), connection.get_isolation_level())
    read_only = engine.execution_options(postgresql_readonly=True, isolation_level="SERIALIZABLE")
    with read_only.connect() as connection:
        try:
            connection.execute(sa.text("insert into owner (name) values ('x')"))
        except sa.exc.InternalError as error:
            print("read only", error.orig.sqlstate)
    with engine.connect() as connection:
        print("level", connection.scalar(sa.text("show transaction_isolation")))


def changed(engine):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for round in range(8):
            rows = connection.execute(sa.text("select * from owner where id < :id order by id"), {"id": 3}).all()
            print("star", [tuple(row) for row in rows])
        connection.execute(sa.text("alter table owner add column extra int default 4"))
        try:
            rows = connection.execute(sa.text("select * from owner where id < :id order by id"), {"id": 3}).all()
            print("star is told", {len(row) for row in rows} <= {3})
        except sa.exc.NotSupportedError:
            # whether that is said depends on which connection is asked
            print("star is told True")
        connection.execute(sa.text("alter table owner drop column extra"))


def crowd(engine):
    def one(number):
        out = []
        for round in range(6):
            with Session(engine) as session:
                session.execute(sa.text(f"set local work_mem = '{1000 + number}kB'"))
                owner = session.scalars(sa.select(Owner).where(Owner.name == f"owner {number}")).one()
                session.add(Thing(owner=owner, size=1_000_000 + round))
                session.commit()
                out.append((owner.name, session.scalar(sa.text("show work_mem"))))
        return out

    with ThreadPoolExecutor(8) as threads:
        for answer in threads.map(one, range(16)):
            print("one", answer)


async def asynchronous(engine):
    make = async_sessionmaker(engine, expire_on_commit=False)
    async with make() as session, session.begin():
        session.add_all([Owner(name=f"async {n}", things=[Thing(size=n)]) for n in range(10)])
    async with engine.connect() as connection:
        result = await connection.stream(sa.select(Owner.name).where(Owner.name.startswith("async")).order_by(Owner.id))
        print("async stream", [name async for (name,) in result])
    async with make() as session:
        nested = await session.begin_nested()
        session.add(Owner(name="async 1"))
        try:
            await session.flush()
        except sa.exc.IntegrityError:
            await nested.rollback()
            print("async refused")
        await session.commit()

    async def one(number):
        async with make() as session:
            out = []
            for _ in range(6):
                query = sa.select(Owner).options(selectinload(Owner.things)).where(Owner.name == f"async {number % 10}")
                owner = (await session.scalars(query)).one()
                out.append((owner.name, [thing.size for thing in owner.things]))
                await session.rollback()
            return out

    for answer in await asyncio.gather(*(one(number) for number in range(30))):
        print("async one", answer)
    await engine.dispose()


def context():
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return unverified


async def logged_in():
    engine = create_async_engine(f"postgresql+asyncpg://{PLACE}", connect_args={"ssl": context()})
    async with engine.connect() as connection:
        print("logged in", await connection.scalar(sa.text("select 1")))
    await engine.dispose()


def main():
    if SCRAM:
        engine = sa.create_engine(f"postgresql+psycopg://{PLACE}?sslmode=require")
        with engine.connect() as connection:
            print("logged in", connection.scalar(sa.text("select 1")))
        asyncio.run(logged_in())
        return
    engine = sa.create_engine(f"postgresql+psycopg://{PLACE}", pool_size=5, max_overflow=5, pool_pre_ping=True)
    for part in (reflected, units, many, streamed, levels, changed, crowd):
        part(engine)
    engine.dispose()
    asyncio.run(asynchronous(create_async_engine(f"postgresql+asyncpg://{PLACE}", pool_pre_ping=True, pool_size=10)))


main()
print("done")
