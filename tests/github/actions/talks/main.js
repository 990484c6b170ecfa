const fs = require("fs")
const { call } = require("./services.js")

async function main() {
  const key = process.env.INPUT_NAME
  console.log(`main ${process.env.STATE_began} in ${process.cwd()}`)
  const found = await call("CacheService", "GetCacheEntryDownloadURL", { key, version: "1" })
  const content = found.ok ? await (await fetch(found.signed_download_url)).text() : "nothing"
  fs.appendFileSync(process.env.GITHUB_OUTPUT, `found=${content}\n`)
  fs.appendFileSync(process.env.GITHUB_ENV, "FROM_ACTION<<END\ntwo\nlines\nEND\n")
  fs.appendFileSync(process.env.GITHUB_PATH, "/opt/of-action\n")
  fs.appendFileSync(process.env.GITHUB_STEP_SUMMARY, `# ${key}\n`)
  fs.appendFileSync(process.env.GITHUB_STATE, `hit=${found.ok}\n`)
}

main()
