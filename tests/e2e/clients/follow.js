// npm `eventsource`: prints every event's JSON, one a line, until a type; reconnects by itself like a browser.
// usage: node follow.js URL UNTIL_TYPE [CUT_AFTER]: the first connection breaks once so many events were seen
import { EventSource } from 'eventsource'

const [url, until, cutAfter] = process.argv.slice(2)
let seen = 0
let connection = new AbortController()
const source = new EventSource(url, {
  fetch: (address, init) => fetch(address, { ...init, signal: AbortSignal.any([init.signal, connection.signal]) }),
})
source.onopen = () => console.error('open')
source.onmessage = (event) => {
  console.log(event.data)
  seen += 1
  if (JSON.parse(event.data).type === until) {
    source.close()
    process.exit(0)
  }
  if (seen === Number(cutAfter)) {
    const broken = connection
    connection = new AbortController()
    broken.abort(new TypeError('the network is gone'))
  }
}
source.onerror = (error) => console.error('error', error.code ?? '', error.message ?? '')
setTimeout(() => process.exit(1), 60000)
