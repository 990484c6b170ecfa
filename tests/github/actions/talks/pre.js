console.log(`pre ${process.env.INPUT_NAME} ${process.env["INPUT_DASHED-NAME"]}`)
require("fs").appendFileSync(process.env.GITHUB_STATE, "began=pre\n")
