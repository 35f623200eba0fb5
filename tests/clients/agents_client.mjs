// An `@openai/agents` session with the Realtime server at argv[2]; prints one JSON object a line.
//
// It writes "turn on the lamp", lets the tool run, and speaks the PCM (24 kHz) of the file argv[3]; the server detects
// the end of the turn.

import { readFileSync } from "node:fs";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from "@openai/agents/realtime";
import { z } from "zod";

const PATIENCE_MS = 20_000;
const BYTES_PER_MS = 48;

const [url, speech] = process.argv.slice(2);
const tell = (what) => console.log(JSON.stringify(what));

const setLamp = tool({
  name: "set_lamp",
  description: "Switch the lamp.",
  parameters: z.object({ on: z.boolean() }),
  execute: async ({ on }) => {
    tell({ event: "tool", on });
    return `The lamp is ${on ? "on" : "off"}.`;
  },
});

const agent = new RealtimeAgent({ name: "Box", instructions: "Be brief.", tools: [setLamp] });
const transport = new OpenAIRealtimeWebSocket({ url: `${url}?model=local` });
const session = new RealtimeSession(agent, { transport, model: "local", tracingDisabled: true });

let heardBytes = 0;
let answered = () => {};
session.on("audio", (event) => (heardBytes += event.data.byteLength));
session.on("error", (event) => tell({ event: "error", error: JSON.stringify(event.error) }));
session.on("agent_end", (_context, _agent, text) => {
  if (!text) return; // the response had only a call
  tell({ event: "audio", ms: Math.round(heardBytes / BYTES_PER_MS) });
  tell({ event: "assistant", text });
  heardBytes = 0;
  answered();
});

const answer = (ask) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("no answer in time")), PATIENCE_MS);
    answered = () => (clearTimeout(timer), resolve());
    ask();
  });

await session.connect({ apiKey: "sk-local" });
await answer(() => session.sendMessage("turn on the lamp"));
await answer(() => {
  const pcm = Buffer.concat([readFileSync(speech), Buffer.alloc(1000 * BYTES_PER_MS)]);
  for (let at = 0; at < pcm.length; at += 100 * BYTES_PER_MS) {
    session.sendAudio(Uint8Array.from(pcm.subarray(at, at + 100 * BYTES_PER_MS)).buffer);
  }
});
for (const item of session.history) {
  if (item.type === "message" && item.role === "user") {
    tell({ event: "user", text: item.content.map((part) => part.text ?? part.transcript).join(" ") });
  }
}
session.close();
tell({ event: "end" });
