// Gives every request to the server under test its token: the conformance suite has no option for a header.
// Loaded before the suite (`node --import`). Both clients that the suite uses announce each request before it is sent:
// undici, which is `fetch` too, and Node's own `http`. Everything else of a request stays as the suite wants it.
import { subscribe } from "node:diagnostics_channel";

const { BEARER_HOST: host, BEARER_TOKEN: token } = process.env;
const value = `Bearer ${token}`;

subscribe("undici:request:create", ({ request }) => {
  if (new URL(request.origin).host === host) request.addHeader("authorization", value);
});
subscribe("http.client.request.created", ({ request }) => {
  if (request.getHeader("host") === host) request.setHeader("authorization", value);
});
