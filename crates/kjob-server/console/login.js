// Who one is: a name with its password, or a token.

import { basic, bearer, logIn } from "./session.js";
import { html, useState } from "./view.js";

export function Login({ why }) {
  const [isToken, setToken] = useState(false);
  const [problem, setProblem] = useState(why === "wrong" ? "You are no longer logged in." : null);
  const [isSending, setSending] = useState(false);
  const send = async (event) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const shown = isToken ? bearer(fields.get("token").trim()) : basic(fields.get("name"), fields.get("password"));
    setSending(true);
    setProblem(null);
    try {
      const wrong = await logIn(shown, fields.get("keep") === "on");
      if (wrong === "wrong") setProblem(isToken ? "The server does not know this token." : "Name or password is wrong.");
      else if (wrong) setProblem(wrong);
    } catch {
      setProblem("The server cannot be reached.");
    }
    setSending(false);
  };
  return html`<main class="login"><form class="form card" onSubmit=${send} aria-label="Log in">
    <h1><span class="brand">kjob</span></h1>
    <div class="tabs" role="group" aria-label="How to log in">
      <button type="button" aria-pressed=${String(!isToken)} onClick=${() => setToken(false)}>Password</button>
      <button type="button" aria-pressed=${String(isToken)} onClick=${() => setToken(true)}>Token</button>
    </div>
    ${isToken
      ? html`<label key="token">Token<input name="token" type="password" required autocomplete="off" autofocus /></label>`
      : html`<label key="name">Name<input name="name" required autocomplete="username" spellcheck=${false} autofocus /></label>
          <label key="password">Password<input name="password" type="password" required autocomplete="current-password" /></label>`}
    <label class="check"><input name="keep" type="checkbox" /> <span>Stay logged in until this tab is closed</span></label>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <button type="submit" class="main" disabled=${isSending}>${isSending ? "Logging in …" : "Log in"}</button>
  </form></main>`;
}
