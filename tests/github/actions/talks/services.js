exports.call = async (service, method, request) => {
  const url = `${process.env.ACTIONS_RESULTS_URL}twirp/github.actions.results.api.v1.${service}/${method}`
  const headers = { Authorization: `Bearer ${process.env.ACTIONS_RUNTIME_TOKEN}`, "Content-Type": "application/json" }
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(request) })
  if (!answer.ok) throw new Error(`${method}: ${answer.status} ${await answer.text()}`)
  return answer.json()
}

exports.put = async (url, body) => {
  const answer = await fetch(url, { method: "PUT", body, headers: { "x-ms-blob-type": "BlockBlob" } })
  if (!answer.ok) throw new Error(`PUT: ${answer.status}`)
}
