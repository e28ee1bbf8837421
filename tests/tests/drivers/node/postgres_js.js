// postgres.js. Variables: PORT, DATABASE, LOGIN (trust or scram). Prints what it has seen; the last line is "done".
"use strict";

const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const postgres = require("postgres");

const scram = process.env.LOGIN === "scram";
const options = {
  host: "127.0.0.1",
  port: Number(process.env.PORT),
  database: process.env.DATABASE,
  username: scram ? "alice" : "postgres",
  password: scram ? "secret" : undefined,
  ssl: scram ? "require" : false,
  onnotice: () => {},
};
const say = (...what) => console.log(...what.map((thing) => (typeof thing === "string" ? thing : JSON.stringify(thing))));
const failure = async (promise) => promise.then(() => "none", (error) => error.code);

async function values(sql) {
  say("values", await sql`select ${7}::int as a, ${"ü"} as b, ${[1, 2]}::int[] as c, ${sql.json({ d: 1 })} as d, ${null}::text as e`);
  await sql`create table t (id serial primary key, a int, b text)`;
  const rows = Array.from({ length: 50 }, (_, n) => ({ a: n, b: `row ${n}` }));
  say("inserted", (await sql`insert into t ${sql(rows)} returning id`).length);
  for (let round = 0; round < 10; round++) {
    say("found", await sql`select a, b from t where a > ${45} order by a`);
  }
  say("fragment", await sql`select ${sql("a")} from ${sql("t")} ${true ? sql`where a = ${3}` : sql``}`);
  say("simple", await sql`select 1 as one; select 2 as two`.simple());
  say("described", (await sql`select * from t where a = ${1}`.describe()).types);
  say("raw", (await sql`select a from t where a < ${3} order by a`.values()).flat());
  for (let number = 0; number < 150; number++) {
    const [{ sum }] = await sql.unsafe(`select ${number} + $1::int as sum`, [number], { prepare: true });
    if (sum !== 2 * number) say("wrong", sum, number);
  }
}

async function errors(sql) {
  say("divided", await failure(sql`select 1 / ${0}::int`));
  say("syntax", await failure(sql`selec`));
  say("missing", await failure(sql`select * from nothing where a = ${1}`));
  say("goes on", await sql`select 1 as one`);
}

async function pipelined(sql) {
  const one = postgres({ ...options, max: 1 });
  const all = await Promise.all(Array.from({ length: 100 }, (_, n) => one`select ${n}::int as n, (select b from t where a = ${n % 50})`));
  say("pipelined", all.map(([row]) => row.n).join() === Array.from({ length: 100 }, (_, n) => n).join());
  const mixed = await Promise.all([one`select 1 as a`, failure(one`select 1 / ${0}::int`), one`select ${3}::int as c`]);
  say("mixed", mixed);
  await one.end();
}

async function changed(sql) {
  const one = postgres({ ...options, max: 1 });
  say("before", (await one`select * from t where a = ${1}`).columns.map((column) => column.name));
  await sql`alter table t add column c text default 'new'`;
  // the driver remembers columns; it is told, prepares anew, and asks again
  say("after", (await one`select * from t where a = ${1}`).columns.map((column) => column.name));
  say("inside", await failure(one.begin(async (sql) => {
    await sql`select * from t where a = ${2}`;
    await sql`alter table t drop column c`;
    return sql`select * from t where a = ${2}`;
  })));
  await sql`alter table t drop column c`;
  await one.end();
}

async function transactions(sql) {
  say("rolled back", await failure(sql.begin(async (sql) => {
    await sql`insert into t (a) values (1000)`;
    await sql`select 1 / ${0}::int`;
  })));
  say("committed", await sql.begin("isolation level serializable", async (sql) => {
    await sql`insert into t (a) values (1001)`;
    const inner = await failure(sql.savepoint(async (sql) => {
      await sql`insert into t (a) values (1002)`;
      await sql`insert into t (id) values (1)`;
    }));
    const [{ transaction_isolation }] = await sql`show transaction_isolation`;
    return [inner, transaction_isolation, await Promise.all([sql`select 1 as x`, sql`select 2 as x`])];
  }));
  say("left", await sql`select a from t where a >= 1000 order by a`);
  const reserved = await sql.reserve();
  await reserved`set work_mem = '7MB'`;
  say("reserved", await reserved`show work_mem`);
  await reserved`reset work_mem`;
  reserved.release();
}

async function cursors(sql) {
  let sum = 0;
  for await (const portion of sql`select a from t where a < ${50}`.cursor(7)) {
    sum += portion.reduce((so, row) => so + row.a, 0);
  }
  say("cursor", sum);
  let seen = 0;
  await sql`select generate_series(1, 100) as n`.cursor(10, (rows) => {
    seen += rows.length;
    return seen >= 30 ? sql.CLOSE : undefined;
  });
  say("closed early", seen);
  let each = 0;
  await sql`select a from t where a < ${50}`.forEach((row) => { each += row.a; });
  say("each", each);
}

async function copies(sql) {
  const into = await sql`copy t (a, b) from stdin`.writable();
  await pipeline(Readable.from(Array.from({ length: 200 }, (_, n) => `${2000 + n}\tcopied\n`)), into);
  const out = await sql`copy (select a from t where a >= 2000 order by a) to stdout`.readable();
  let len = 0;
  for await (const chunk of out) len += chunk.length;
  say("copied", len, (await sql`select count(*)::int from t where b = 'copied'`)[0]);
}

async function notified(sql) {
  const heard = new Promise((resolve) => {
    sql.listen("js_news", resolve).then(() => sql.notify("js_news", "hello"));
  });
  say("heard", await heard);
}

async function cancelled(sql) {
  const query = sql`select pg_sleep(30)`;
  setTimeout(() => query.cancel(), 500);
  say("cancelled", await failure(query.execute()));
}

async function crowd(sql) {
  const many = postgres({ ...options, max: 20, idle_timeout: 1 });
  const answers = await Promise.all(Array.from({ length: 500 }, async (_, n) => {
    const [row] = await many`select ${n}::int as n, b from t where a = ${n % 50}`;
    return row.n === n && row.b === `row ${n % 50}`;
  }));
  say("crowd", answers.every(Boolean));
  await many.end();
}

async function main() {
  const sql = postgres(options);
  if (scram) {
    say("logged in", await sql`select 1 as one`);
  } else {
    for (const part of [values, errors, pipelined, changed, transactions, cursors, copies, notified, cancelled, crowd]) {
      await part(sql);
    }
  }
  await sql.end();
  say("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
