// `node durable_streams.js PORT`: the package's own server, in memory.
import { DurableStreamTestServer } from "@durable-streams/server";

await new DurableStreamTestServer({ port: Number(process.argv[2]), host: "127.0.0.1", compression: false }).start();
