// node-postgres through the data plane. Argument: a connection string. Prints "done" when all went well.
"use strict";

const assert = require("node:assert");
const { Client, Pool } = require("pg");

const connectionString = process.argv[2];

async function values(client) {
  assert.deepStrictEqual((await client.query("select 1 as one")).rows, [{ one: 1 }]);
  const { rows } = await client.query("select $1::int as a, $2::text as b, $3::bytea as c", [7, "ü", Buffer.from([0, 1])]);
  assert.deepStrictEqual(rows, [{ a: 7, b: "ü", c: Buffer.from([0, 1]) }]);
}

async function prepared(client) {
  for (let number = 0; number < 200; number++) {
    const query = { name: `statement ${number % 20}`, text: `select ${number % 20} + $1::int as sum`, values: [number] };
    const { rows } = await client.query(query);
    assert.strictEqual(rows[0].sum, (number % 20) + number);
  }
}

async function transactions(client) {
  await client.query("create table if not exists node_rows (a int)");
  await client.query("begin");
  await client.query("insert into node_rows values ($1)", [1]);
  await client.query("rollback");
  await client.query("begin");
  await client.query("insert into node_rows values ($1)", [2]);
  await client.query("commit");
  assert.deepStrictEqual((await client.query("select a from node_rows")).rows, [{ a: 2 }]);
  await client.query("drop table node_rows");
}

async function errors(client) {
  await assert.rejects(client.query("select 1 / $1::int", [0]), { code: "22012" });
  await assert.rejects(client.query("selec"), { code: "42601" });
  await values(client);
}

async function notified(client) {
  const heard = new Promise((resolve) => client.once("notification", (message) => resolve(message.payload)));
  await client.query("listen node_news");
  await client.query("notify node_news, 'hello'");
  assert.strictEqual(await heard, "hello");
}

async function main() {
  const client = new Client({ connectionString });
  await client.connect();
  for (const part of [values, prepared, transactions, errors, notified]) {
    await part(client);
  }
  await client.end();
  const pool = new Pool({ connectionString, max: 20 });
  const ask = async (number) => {
    const { rows } = await pool.query({ name: "shared name", text: "select $1::int as a", values: [number] });
    assert.strictEqual(rows[0].a, number);
  };
  await Promise.all(Array.from({ length: 1000 }, (_, number) => ask(number)));
  await pool.end();
  console.log("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
