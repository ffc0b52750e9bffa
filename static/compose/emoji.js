// The most common emoji with their usual short names. This module is loaded when it is first needed.

// One table for each group (smileys, people, hearts, nature, food, things, signs). Each emoji comes after its names,
// the usual one first.
const TABLES = [
  "grinning😀 smiley😃 smile😄 grin😁 laughing😆 sweat_smile😅 rofl🤣 joy😂 slight_smile🙂 upside_down🙃 melting_face🫠 " +
  "wink😉 blush😊 innocent😇 smiling_hearts🥰 heart_eyes😍 star_struck🤩 kissing_heart😘 yum😋 tongue😛 winking_tongue😜 " +
  "zany_face🤪 hugs🤗 shushing🤫 thinking🤔 salute🫡 raised_eyebrow🤨 neutral_face😐 no_mouth😶 smirk😏 unamused😒 " +
  "roll_eyes🙄 grimacing😬 relieved😌 pensive😔 sleeping😴 mask😷 sick🤒 nauseated🤢 sneezing🤧 hot_face🥵 cold_face🥶 " +
  "dizzy_face😵 mind_blown🤯 cowboy🤠 partying🥳 sunglasses😎 nerd🤓 confused😕 worried😟 frowning☹️ open_mouth😮 " +
  "astonished😲 flushed😳 pleading🥺 fearful😨 cry😢 sob😭 scream😱 disappointed😞 sweat😓 weary😩 yawning🥱 rage😡 angry😠 " +
  "cursing🤬 smiling_imp😈 skull💀 poop💩 clown🤡 ghost👻 alien👽 robot🤖 see_no_evil🙈",
  "+1,thumbsup👍 -1,thumbsdown👎 wave👋 raised_hand✋ ok_hand👌 v,peace✌️ crossed_fingers🤞 metal🤘 call_me🤙 " +
  "point_left👈 point_right👉 point_up👆 point_down👇 fist✊ punch👊 clap👏 raised_hands🙌 heart_hands🫶 handshake🤝 " +
  "pray,thanks🙏 writing_hand✍️ muscle💪 eyes👀 brain🧠 shrug🤷 facepalm🤦 bow🙇 raising_hand🙋 technologist🧑‍💻 " +
  "detective🕵️ ninja🥷 superhero🦸 mage🧙 zombie🧟 dancer💃 running🏃",
  "heart❤️ orange_heart🧡 yellow_heart💛 green_heart💚 blue_heart💙 purple_heart💜 black_heart🖤 white_heart🤍 " +
  "broken_heart💔 two_hearts💕 sparkling_heart💖 kiss💋 100💯 boom💥 dizzy💫 dash💨 zzz💤",
  "dog🐶 cat🐱 mouse🐭 rabbit🐰 fox🦊 bear🐻 panda🐼 lion🦁 cow🐮 pig🐷 frog🐸 monkey🐒 chicken🐔 penguin🐧 bird🐦 duck🦆 owl🦉 " +
  "unicorn🦄 bee🐝 bug🐛 butterfly🦋 snail🐌 turtle🐢 snake🐍 octopus🐙 crab🦀 fish🐟 whale🐳 elephant🐘 sloth🦥 goat🐐 " +
  "dragon🐉 cactus🌵 christmas_tree🎄 seedling🌱 palm_tree🌴 clover🍀 mushroom🍄 rose🌹 sunflower🌻 bouquet💐 sunny☀️ " +
  "cloud☁️ rainbow🌈 umbrella☔ zap⚡ snowflake❄️ snowman⛄ fire🔥 ocean🌊 moon🌙 star⭐ sparkles✨ earth🌍",
  "apple🍎 banana🍌 lemon🍋 watermelon🍉 strawberry🍓 cherries🍒 peach🍑 avocado🥑 carrot🥕 hot_pepper🌶️ bread🍞 " +
  "croissant🥐 cheese🧀 egg🥚 hamburger🍔 fries🍟 pizza🍕 taco🌮 salad🥗 popcorn🍿 ramen🍜 sushi🍣 icecream🍦 doughnut🍩 " +
  "cookie🍪 birthday🎂 cake🍰 chocolate🍫 coffee☕ tea🍵 champagne🍾 wine🍷 cocktail🍸 beer🍺 beers🍻",
  "tada,party🎉 confetti🎊 balloon🎈 gift🎁 trophy🏆 medal🏅 soccer⚽ basketball🏀 dart🎯 video_game🎮 dice🎲 art🎨 " +
  "guitar🎸 music🎵 headphones🎧 clapper🎬 camera📷 phone📱 computer💻 bulb,idea💡 books📚 memo📝 paperclip📎 pushpin📌 " +
  "calendar📅 chart📈 email📧 package📦 lock🔒 key🔑 hammer🔨 wrench🔧 gear⚙️ link🔗 bomb💣 crown👑 gem💎 money💰 bell🔔 " +
  "mega📣 hourglass⌛ alarm_clock⏰ car🚗 train🚆 bike🚲 airplane✈️ rocket🚀 ship🚢 house🏠 beach🏖️ mountain⛰️ " +
  "construction🚧",
  "check✅ x❌ warning⚠️ no_entry⛔ stop🛑 question❓ exclamation❗ plus➕ minus➖ recycle♻️ arrow_up⬆️ arrow_down⬇️ " +
  "arrow_left⬅️ arrow_right➡️ repeat🔁 mag🔍 red_circle🔴 yellow_circle🟡 green_circle🟢 finish🏁 red_flag🚩 " +
  "white_flag🏳️ rainbow_flag🏳️‍🌈 pirate_flag🏴‍☠️",
];

const ENTRY = /([\w+,-]+)(\S+)/g;

// The groups for the picker, as `{ emoji: [{ name, emoji }] }` with the usual names.
export const groups = TABLES.map((table) => ({ emoji: entriesOf(table).map(([usual]) => usual) }));

const all = TABLES.flatMap((table) => entriesOf(table).flat());

// Finds emoji by a few letters, each once: first names that begin with them, then names with a word that does, then
// names that contain them; shorter names first.
export function find(letters, count = 20) {
  const wanted = letters.toLowerCase();
  const hits = all.filter(({ name }) => name.includes(wanted));
  hits.sort((a, b) => rankOf(a.name, wanted) - rankOf(b.name, wanted));
  const found = new Map();
  for (const hit of hits) if (!found.has(hit.emoji)) found.set(hit.emoji, hit);
  return [...found.values()].slice(0, count);
}

// Returns the emoji with exactly this name; undefined if there is none.
export function emojiOf(name) {
  return all.find((entry) => entry.name === name.toLowerCase())?.emoji;
}

function rankOf(name, wanted) {
  const place = name.startsWith(wanted) ? 0 : name.includes(`_${wanted}`) ? 100 : 200;
  return place + name.length;
}

// Returns for each emoji of a table its names, as `{ name, emoji }`.
function entriesOf(table) {
  return [...table.matchAll(ENTRY)].map(([, names, emoji]) => names.split(",").map((name) => ({ name, emoji })));
}
