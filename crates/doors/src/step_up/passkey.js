// Passkeys on the step-up page. A form with `data-passkey` (`create` or `get`) is hidden until this script runs. On
// submission its fields go to `data-options` first. The response of the browser's key then fills the field `passkey`,
// and the form is submitted as usual.
"use strict";

const NOT_ALLOWED = "No key answered: it was cancelled, took too long, or no key fits. Try again.";
const REASONS = {
  NotAllowedError: NOT_ALLOWED,
  AbortError: NOT_ALLOWED,
  InvalidStateError: "This key is among yours already. Use another one.",
  NotSupportedError: "This key can't be used here: it is of a kind that is not accepted.",
  SecurityError: "The address of this page can't have keys. Contact your administrator.",
  TypeError: "The server can't be reached. Try again.",
};

const status = document.getElementById("passkey-status");

// Shows a message, also to screen readers: the element is a live region.
function show(text, bad) {
  status.textContent = text;
  status.classList.toggle("error", bad);
}

async function options(form) {
  const answer = await fetch(form.dataset.options, { method: "POST", body: new URLSearchParams(new FormData(form)) });
  const json = answer.headers.get("content-type") === "application/json";
  const expired = { error_description: "This visit has expired. Begin again where you came from." };
  const body = json ? await answer.json() : expired;
  if (!body.publicKey) throw new Error(body.error_description);
  return body.publicKey;
}

async function perform(form) {
  const publicKey = await options(form);
  if (form.dataset.passkey === "create") {
    return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) });
  }
  return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) });
}

async function send(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const button = form.querySelector("button");
  button.disabled = true;
  show("Your browser asks for your key now.", false);
  try {
    const credential = await perform(form);
    form.elements.passkey.value = JSON.stringify(credential.toJSON());
    show("Your key has answered. One moment …", false);
    // submits the form without calling this handler again
    form.submit();
  } catch (error) {
    show(REASONS[error.name] ?? error.message, true);
    button.disabled = false;
    button.focus();
  }
}

if (window.PublicKeyCredential?.parseRequestOptionsFromJSON && PublicKeyCredential.prototype.toJSON) {
  for (const form of document.querySelectorAll("form[data-passkey]")) {
    form.addEventListener("submit", send);
    form.hidden = false;
  }
}
