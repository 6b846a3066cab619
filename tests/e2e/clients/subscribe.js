// One npm client on several streams; reconnecting is its own affair. Prints a line of JSON per connection and event.
// usage: node subscribe.js CLIENT '[{"stream": NAME, "url": URL, "headers": {…}}]'
import { fetchEventSource } from '@microsoft/fetch-event-source'
import { EventSource } from 'eventsource'
import { createEventSource } from 'eventsource-client'

const print = (line) => console.log(JSON.stringify(line))

// What fetch-event-source expects of a browser.
globalThis.window = globalThis
globalThis.document = { addEventListener() {}, removeEventListener() {} }

const CLIENTS = {
  eventsource: ({ url, headers }, opened, heard) => {
    const source = new EventSource(url, {
      fetch: (address, init) => fetch(address, { ...init, headers: { ...init.headers, ...headers } }),
    })
    source.onopen = opened
    source.onmessage = (event) => heard(event.lastEventId, event.data)
  },
  'eventsource-client': ({ url, headers }, opened, heard) => {
    createEventSource({ url, headers, onConnect: opened, onMessage: ({ id, data }) => heard(id, data) })
  },
  'fetch-event-source': ({ url, headers }, opened, heard) => {
    const onopen = async () => opened()
    fetchEventSource(url, { headers, onopen, onmessage: ({ id, data }) => heard(id, data), openWhenHidden: true })
  },
}

const [client, wanted] = process.argv.slice(2)
for (const { stream, ...rest } of JSON.parse(wanted)) {
  CLIENTS[client](
    rest,
    () => print({ stream, opened: true }),
    (id, data) => print({ stream, id, data: JSON.parse(data) }),
  )
}
setTimeout(() => process.exit(1), 120000)
