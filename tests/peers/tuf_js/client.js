// A TUF client without anything of edgeline in it. Each line of its input is a JSON object that asks
// for a target, and each line of its output says what came of that.

import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Updater } from "tuf-js";

async function fetchTarget({ metadataDir, baseUrl, target }) {
  const targetDir = mkdtempSync(join(tmpdir(), "tuf-js-"));
  try {
    const updater = new Updater({
      metadataDir,
      metadataBaseUrl: `${baseUrl}/metadata`,
      targetDir,
      targetBaseUrl: `${baseUrl}/targets`,
      config: { fetchRetry: 0, fetchTimeout: 30_000 },
    });
    await updater.refresh();
    const info = await updater.getTargetInfo(target);
    if (!info) {
      return { refused: "there is no such target" };
    }
    const data = readFileSync(await updater.downloadTarget(info));
    return { sha256: createHash("sha256").update(data).digest("hex") };
  } catch (error) {
    return { refused: `${error.name}: ${error.message}` };
  } finally {
    rmSync(targetDir, { recursive: true });
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await fetchTarget(JSON.parse(line)))}\n`);
}
