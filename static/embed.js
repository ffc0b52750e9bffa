// Shows a room of this chat in another site's page, in place of this script. The server has to allow that site
// (--allow-frame):
// <script src="https://chat.example/embed.js" data-room="lobby" data-height="480"></script>
(() => {
  const script = document.currentScript;
  const { room = "lobby", height = "480", title = "Chat", theme, lang, token, tokenUrl } = script.dataset;
  const chat = new URL(script.src).origin;
  const query = new URLSearchParams({ embed: "", ...(theme && { theme }), ...(lang && { lang }) });

  const frame = document.createElement("iframe");
  frame.src = `${chat}/?${query}#${encodeURIComponent(room)}`;
  frame.title = title;
  frame.allow = "clipboard-write";
  Object.assign(frame.style, { inlineSize: "100%", blockSize: /\D/.test(height) ? height : `${height}px`, border: 0 });
  if (token) frame.dataset.token = token;

  // A token is sent only to the chat and only when it asks, and is never put into an address.
  addEventListener("message", async ({ source, origin, data }) => {
    if (source !== frame.contentWindow || origin !== chat || data?.fastchat !== "token") return;
    source.postMessage({ fastchat: "token", token: await newestToken() }, chat);
  });

  async function newestToken() {
    if (!tokenUrl) return frame.dataset.token ?? "";
    try {
      const answer = await fetch(tokenUrl, { cache: "no-store" });
      return answer.ok ? (await answer.text()).trim() : "";
    } catch {
      return "";
    }
  }

  script.replaceWith(frame);
})();
