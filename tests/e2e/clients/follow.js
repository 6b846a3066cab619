// npm `eventsource`: prints every event's JSON, one a line, until a type; reconnects by itself like a browser.
// usage: node follow.js URL UNTIL_TYPE [CUT_AFTER]: the first connection breaks once so many events were seen
import { EventSource } from 'eventsource'

const [url, until, cutAfter] = process.argv.slice(2)
let left = Number(cutAfter)

// Passes whole events on until it breaks: the cut is where it has to be, however much arrives at once.
const cutting = () => {
  let rest = ''
  return new TransformStream({
    transform(bytes, stream) {
      const events = (rest + Buffer.from(bytes).toString('latin1')).split('\n\n')
      rest = events.pop()
      let passed = ''
      for (const event of events) {
        passed += event + '\n\n'
        if (/^data:/m.test(event) && --left === 0) break
      }
      if (passed) stream.enqueue(Buffer.from(passed, 'latin1'))
      if (!left) stream.error(new TypeError('the network is gone'))
    },
  })
}

const source = new EventSource(url, {
  fetch: async (address, init) => {
    const response = await fetch(address, init)
    const { status, headers, redirected } = response
    return left ? { status, headers, redirected, url: response.url, body: response.body.pipeThrough(cutting()) } : response
  },
})
source.onopen = () => console.error('open')
source.onmessage = (event) => {
  console.log(event.data)
  if (JSON.parse(event.data).type === until) {
    source.close()
    process.exit(0)
  }
}
source.onerror = (error) => console.error('error', error.code ?? '', error.message ?? '')
setTimeout(() => process.exit(1), 60000)
