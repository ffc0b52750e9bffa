// Sets the language, the direction and the colours before the first paint. It is a classic script because the browser
// waits for those.
{
  const DIRECTIONS = { en: "ltr", ar: "rtl" };
  const query = new URLSearchParams(location.search);
  const kept = (key) => {
    try {
      return localStorage.getItem(`fastchat.${key}`);
    } catch {
      return null;
    }
  };
  const languageOf = (tag) => {
    try {
      return new Intl.Locale(tag).language;
    } catch {
      return "";
    }
  };
  // The order of precedence: the language in the address (`?lang=ar`), the reader's choice, the browser's languages.
  const asked = [query.get("lang"), kept("language"), ...navigator.languages];
  const lang = asked.find((tag) => Object.hasOwn(DIRECTIONS, languageOf(tag))) ?? "en";
  Object.assign(document.documentElement, { lang, dir: DIRECTIONS[languageOf(lang)] });
  document.documentElement.dataset.theme = query.get("theme") ?? kept("theme") ?? "";
  // The embedding page can choose the accent colour.
  const accent = parent !== window && query.get("accent");
  if (accent && CSS.supports("color", accent)) {
    const { style } = document.documentElement;
    style.setProperty("--accent", accent);
    style.setProperty("--accent-soft", "color-mix(in oklab, var(--accent) 20%, var(--canvas))");
  }
}
