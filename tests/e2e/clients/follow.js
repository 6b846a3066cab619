// npm `eventsource`: prints every event's JSON, one a line, until a type; reconnects by itself like a browser.
// usage: node follow.js URL UNTIL_TYPE
import { EventSource } from 'eventsource'

const [url, until] = process.argv.slice(2)
const source = new EventSource(url)
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
