"""asyncpg through the data plane. Argument: a connection string. Prints "done" when all went well."""

import asyncio
import sys

import asyncpg

dsn = sys.argv[1]


async def values(connection):
    assert await connection.fetchval("select 1") == 1
    row = await connection.fetchrow("select $1::int, $2::text, $3::bytea, $4::int[]", 7, "ü", b"\0\1", [1, 2])
    assert tuple(row) == (7, "ü", b"\0\1", [1, 2]), row


async def catalogue(connection):
    # types that asyncpg looks up
    await connection.execute("drop type if exists asyncpg_mood; create type asyncpg_mood as enum ('sad', 'glad')")
    for _ in range(3):
        assert await connection.fetchval("select $1::asyncpg_mood", "glad") == "glad"


async def prepared(connection):
    statement = await connection.prepare("select $1::int * 2")
    for number in range(200):
        assert await statement.fetchval(number) == 2 * number
    # more than its own cache of a hundred
    for number in range(150):
        assert await connection.fetchval(f"select {number} + $1::int", 1) == number + 1


async def transactions(connection):
    await connection.execute("create table if not exists asyncpg_rows (a int, b text)")
    try:
        async with connection.transaction():
            await connection.execute("insert into asyncpg_rows values (1, 'lost')")
            raise RuntimeError
    except RuntimeError:
        pass
    async with connection.transaction():
        await connection.executemany("insert into asyncpg_rows values ($1, $2)", [(n, str(n)) for n in range(500)])
        portions = [row["a"] async for row in connection.cursor("select a from asyncpg_rows order by a", prefetch=7)]
        assert portions == list(range(500))
    await connection.copy_records_to_table("asyncpg_rows", records=[(n, "copied") for n in range(1000)])
    assert await connection.fetchval("select count(*) from asyncpg_rows") == 1500
    await connection.execute("drop table asyncpg_rows")


async def errors(connection):
    for _ in range(3):
        try:
            await connection.fetchval("select 1 / $1::int", 0)
        except asyncpg.DivisionByZeroError:
            pass
        else:
            raise AssertionError("the error was lost")
        assert await connection.fetchval("select 3") == 3


async def cancelled(connection):
    try:
        await asyncio.wait_for(connection.fetchval("select pg_sleep(30)"), timeout=0.5)
    except asyncio.TimeoutError:
        pass
    else:
        raise AssertionError("the cancel request was lost")
    assert await connection.fetchval("select 4") == 4


async def notified(connection):
    heard = asyncio.get_running_loop().create_future()
    await connection.add_listener("asyncpg_news", lambda *event: heard.set_result(event[-1]))
    other = await asyncpg.connect(dsn)
    await other.execute("notify asyncpg_news, 'hello'")
    await other.close()
    assert await asyncio.wait_for(heard, 10) == "hello"


async def pooled():
    async with asyncpg.create_pool(dsn, min_size=5, max_size=20) as pool:

        async def one(number):
            async with pool.acquire() as connection:
                for _ in range(20):
                    assert await connection.fetchval("select $1::int", number) == number

        await asyncio.gather(*(one(number) for number in range(100)))


async def main():
    connection = await asyncpg.connect(dsn)
    for part in (values, catalogue, prepared, transactions, errors, cancelled, notified):
        await part(connection)
    await connection.reset()
    await values(connection)
    await connection.close()
    await pooled()
    print("done")


asyncio.run(main())
