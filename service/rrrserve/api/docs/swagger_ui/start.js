// The document may need a token, which a browser does not send by itself when it opens a page.
let token = null;
const ask = () => fetch("docs.json", token ? { headers: { Authorization: `Bearer ${token}` } } : {});
let answer = await ask();
while (answer.status === 401 && (token = prompt("Bearer token of this service"))) answer = await ask();
const ui = SwaggerUIBundle({
  spec: await answer.json(),
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  onComplete: () => token && ui.preauthorizeApiKey("token", token),
});
