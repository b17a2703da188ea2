"""How far estimated tokens are from tiktoken's, by kind of text. The samples are our own."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time

import pytest
from tokvigil.token_encodings import encoding
from tokvigil.token_weights import estimated

CHANCE = random.Random(5)
NOISE = CHANCE.randbytes(3_000)

PROSE: dict[str, str] = {
    "English": """The control plane answers within a few milliseconds, so nobody notices that a question was asked at
all. If a budget is used up, the call never reaches the provider, and the user sees a clear message instead of a
bill. We wrote the first version in a single afternoon, threw it away, and learned more from its mistakes than from
any plan. A limit that can be overshot is only a suggestion; what people remember is the month in which it did not
hold.""",
    "English, chatting": """hey, can you take a look at this? the export keeps failing since yesterday and I have no
idea why :( it just says "something went wrong". I already tried logging out and in again, didn't help. oh and btw,
could you also tell me how many messages I've got left this month? thanks a lot!!""",
    "German": """Die Steuerung antwortet in wenigen Millisekunden, sodass niemand bemerkt, dass überhaupt gefragt
wurde. Ist das Budget aufgebraucht, erreicht der Aufruf den Anbieter nicht, und statt einer Rechnung sieht der
Benutzer eine verständliche Meldung. Die Geschwindigkeitsbegrenzung gilt für jede Abteilung einzeln;
Ausnahmegenehmigungen erteilt die Verwaltung auf schriftlichen Antrag.""",
    "French": """Le plan de contrôle répond en quelques millisecondes, si bien que personne ne remarque qu'une
question a été posée. Lorsque le budget est épuisé, l'appel n'atteint jamais le fournisseur et l'utilisateur voit un
message clair plutôt qu'une facture. Nous avons écrit la première version en un après-midi, puis nous l'avons jetée.""",
    "Spanish": """El plano de control responde en pocos milisegundos, de modo que nadie nota que se ha hecho una
pregunta. Si el presupuesto se ha agotado, la llamada nunca llega al proveedor y el usuario ve un mensaje claro en
lugar de una factura. Escribimos la primera versión en una sola tarde y aprendimos mucho de sus errores.""",
    "Italian": """Il piano di controllo risponde in pochi millisecondi, perciò nessuno si accorge che è stata fatta
una domanda. Quando il budget è esaurito, la chiamata non raggiunge mai il fornitore e l'utente vede un messaggio
chiaro invece di una fattura. Abbiamo scritto la prima versione in un solo pomeriggio.""",
    "Portuguese": """O plano de controle responde em poucos milissegundos, de modo que ninguém percebe que uma
pergunta foi feita. Quando o orçamento se esgota, a chamada nunca chega ao fornecedor e o usuário vê uma mensagem
clara em vez de uma conta. Escrevemos a primeira versão em uma única tarde.""",
    "Dutch": """Het besturingsvlak antwoordt binnen enkele milliseconden, zodat niemand merkt dat er een vraag is
gesteld. Als het budget op is, bereikt de aanroep de aanbieder nooit en ziet de gebruiker een duidelijke melding in
plaats van een rekening. We schreven de eerste versie in één middag en gooiden haar weer weg.""",
    "Polish": """Płaszczyzna sterowania odpowiada w ciągu kilku milisekund, więc nikt nie zauważa, że w ogóle zadano
pytanie. Gdy budżet się wyczerpie, wywołanie nigdy nie dociera do dostawcy, a użytkownik widzi jasny komunikat
zamiast rachunku. Pierwszą wersję napisaliśmy w jedno popołudnie.""",
    "Turkish": """Kontrol düzlemi birkaç milisaniye içinde yanıt verir, bu yüzden kimse bir soru sorulduğunu fark
etmez. Bütçe tükendiğinde çağrı sağlayıcıya hiç ulaşmaz ve kullanıcı fatura yerine açık bir ileti görür. İlk sürümü
tek bir öğleden sonrada yazdık ve sonra attık.""",
    "Vietnamese": """Hệ thống điều khiển trả lời trong vài mili giây nên không ai nhận ra rằng đã có một câu hỏi được
gửi đi. Khi ngân sách đã hết, lời gọi sẽ không bao giờ đến được nhà cung cấp và người dùng thấy một thông báo rõ
ràng thay vì một hóa đơn. Chúng tôi viết phiên bản đầu tiên trong một buổi chiều.""",
    "Indonesian": """Bidang kendali menjawab dalam beberapa milidetik, sehingga tidak ada yang menyadari bahwa sebuah
pertanyaan telah diajukan. Jika anggaran habis, panggilan tidak pernah sampai ke penyedia dan pengguna melihat pesan
yang jelas, bukan tagihan. Kami menulis versi pertama dalam satu sore.""",
    "Finnish": """Ohjaustaso vastaa muutamassa millisekunnissa, joten kukaan ei huomaa, että mitään edes kysyttiin.
Kun budjetti on käytetty loppuun, kutsu ei koskaan tavoita palveluntarjoajaa, ja käyttäjä näkee laskun sijasta
selkeän viestin. Kirjoitimme ensimmäisen version yhdessä iltapäivässä.""",
    "Russian": """Плоскость управления отвечает за несколько миллисекунд, поэтому никто не замечает, что вопрос вообще
был задан. Когда бюджет исчерпан, вызов не доходит до поставщика, и пользователь видит понятное сообщение вместо
счёта. Первую версию мы написали за один вечер и выбросили её.""",
    "Ukrainian": """Площина керування відповідає за кілька мілісекунд, тому ніхто не помічає, що запитання взагалі
було поставлене. Коли бюджет вичерпано, виклик не доходить до постачальника, і користувач бачить зрозуміле
повідомлення замість рахунку. Першу версію ми написали за один вечір.""",
    "Greek": """Το επίπεδο ελέγχου απαντά μέσα σε λίγα χιλιοστά του δευτερολέπτου, οπότε κανείς δεν παρατηρεί ότι
έγινε ερώτηση. Όταν ο προϋπολογισμός εξαντληθεί, η κλήση δεν φτάνει ποτέ στον πάροχο και ο χρήστης βλέπει ένα σαφές
μήνυμα αντί για λογαριασμό. Γράψαμε την πρώτη έκδοση σε ένα απόγευμα.""",
    "Arabic": """يجيب مستوى التحكم خلال بضعة أجزاء من الألف من الثانية، فلا يلاحظ أحد أن سؤالا قد طرح أصلا. وعندما
تنفد الميزانية لا تصل المكالمة إلى المزود أبدا، ويرى المستخدم رسالة واضحة بدلا من فاتورة. كتبنا النسخة الأولى في عصر
يوم واحد ثم تخلصنا منها وتعلمنا من أخطائها أكثر مما تعلمنا من أي خطة.""",
    "Hebrew": """מישור הבקרה עונה בתוך כמה אלפיות השנייה, ולכן איש אינו מבחין שבכלל נשאלה שאלה. כשהתקציב נגמר, הקריאה
אינה מגיעה אל הספק, והמשתמש רואה הודעה ברורה במקום חשבון. כתבנו את הגרסה הראשונה באחר צהריים אחד, השלכנו אותה ולמדנו
מטעויותיה יותר מאשר מכל תוכנית.""",
    "Hindi": """नियंत्रण तल कुछ ही मिलीसेकंड में उत्तर देता है, इसलिए किसी को पता नहीं चलता कि कोई प्रश्न पूछा भी गया
था। जब बजट समाप्त हो जाता है, तो कॉल प्रदाता तक कभी नहीं पहुँचती और उपयोगकर्ता को बिल के बजाय एक स्पष्ट संदेश दिखाई
देता है। हमने पहला संस्करण एक ही दोपहर में लिखा था।""",
    "Thai": """ระบบควบคุมตอบกลับภายในไม่กี่มิลลิวินาที จึงไม่มีใครสังเกตว่ามีการถามคำถามเกิดขึ้น เมื่องบประมาณหมดลง
คำขอจะไม่มีวันไปถึง ผู้ให้บริการ และผู้ใช้จะเห็นข้อความที่ชัดเจนแทนใบแจ้งหนี้
เราเขียนรุ่นแรกเสร็จภายในบ่ายวันเดียวแล้วก็ทิ้งมันไป""",
    "Chinese": """控制平面在几毫秒之内就会作出回答，因此没有人会注意到曾经提出过问题。如果预算已经用完，请求就不会到达
供应商，用户看到的是一条清楚的提示，而不是一张账单。我们用一个下午写出了第一个版本，然后把它扔掉，从它的错误中学到的
东西比任何计划都多。""",
    "Chinese, traditional": """控制平面在幾毫秒之內就會作出回答，因此沒有人會注意到曾經提出過問題。如果預算已經用完，
請求就不會到達供應商，使用者看到的是一則清楚的訊息，而不是一張帳單。我們用一個下午寫出了第一個版本，然後把它丟掉。""",
    "Japanese": """制御プレーンは数ミリ秒で応答するため、質問が行われたことに誰も気づきません。予算を使い切ると、呼び
出しはプロバイダーに届かず、利用者には請求書の代わりに分かりやすいメッセージが表示されます。最初のバージョンは一日の
午後で書き上げ、その後すべて捨てました。""",
    "Korean": """제어 평면은 몇 밀리초 안에 응답하기 때문에 질문이 있었다는 사실을 아무도 알아차리지 못합니다.
예산을 모두 사용하면 호출은 제공자에게 전달되지 않고, 사용자는 청구서 대신 명확한 안내를 보게 됩니다. 첫 번째 버전은
하루 오후 만에 작성했습니다.""",
}
CODE: dict[str, str] = {
    "Python": '''def settle(events: Iterable[UsageEvent], *, now: datetime) -> list[Receipt]:
    """Count each event once; later reports of the same request are duplicates."""
    receipts = []
    for event in sorted(events, key=lambda event: event.occurred_at):
        if event.request_id in self._seen:
            receipts.append(Receipt(event.request_id, duplicate=True))
            continue
        self._seen.add(event.request_id)
        with transaction.atomic():
            row = LedgerRow.objects.create(user_id=event.user_id, tokens=event.usage.total)
        receipts.append(Receipt(row.pk, duplicate=False, cost_usd=row.cost / 1_000_000))
    return receipts
''',
    "TypeScript": """export interface Decision { allowed: boolean; reasonCode: string; retryAfter?: number }

export async function evaluate(client: Client, question: Question): Promise<Decision> {
  const response = await client.fetch(`/v1/evaluate`, { method: "POST", body: JSON.stringify(question) });
  if (!response.ok) {
    throw new RefusedError(response.status, await response.text());
  }
  const decision = (await response.json()) as Decision;
  return { ...decision, retryAfter: decision.retryAfter ?? undefined };
}
""",
    "SQL": """SELECT users.id, users.name, COUNT(events.id) AS calls, SUM(events.cost_nano) / 1e9 AS cost_usd
FROM users LEFT JOIN events ON events.user_id = users.id AND events.occurred_at >= now() - INTERVAL '7 days'
WHERE users.tenant_id = $1 AND NOT users.is_blocked
GROUP BY users.id, users.name HAVING COUNT(events.id) > 10 ORDER BY cost_usd DESC LIMIT 50;
""",
    "HTML": """<section class="card" id="limits"><h2>Your limits</h2>
  <ul class="limits__list">
    <li class="limits__item"><span>Requests per day</span> <strong data-used="4">4 of 5</strong></li>
    <li class="limits__item"><span>Cost per month</span> <strong data-used="12.5">$12.50 of $20</strong></li>
  </ul>
  <a href="/plans?upgrade=pro" class="button button--primary">Upgrade</a>
</section>
""",
    "Markdown": """## Install

Run `pip install tokvigil`, then set **two** variables:

- `TOKVIGIL_API_KEY`: the key of your environment
- `TOKVIGIL_BASE_URL`: where the control plane is, such as `https://limits.example.com`

| argument | default | meaning |
|---|---|---|
| `timeout` | `2.0` | seconds for one request |
| `max_retries` | `2` | how often it asks again |

See [the guide](docs/guide.md#limits) for more.
""",
    "YAML": """services:
  web:
    image: registry.example.com/shop/web:1.4.2
    environment:
      DATABASE_URL: postgres://shop@db/shop
      LOG_LEVEL: info
    ports: ["8080:8080"]
    healthcheck:
      test: ["CMD", "curl", "-f", "http://localhost:8080/health"]
      interval: 30s
""",
    "CSS": """.card { display: flex; gap: 12px; padding: 16px 24px; border-radius: 8px; background: #f6f7f9; }
.card:hover { box-shadow: 0 2px 8px rgba(0, 0, 0, 0.12); transform: translateY(-1px); }
@media (max-width: 640px) { .card { flex-direction: column; padding: 12px; } }
""",
    "shell": """set -euo pipefail
for file in "$HOME"/backups/*.tar.gz; do
  if [ "$(stat -c %s "$file")" -gt 1048576 ]; then echo "large: $file" >&2; fi
  tar -xzf "$file" -C /tmp/restore --strip-components=1 || exit 1
done
""",
}
DATA: dict[str, str] = {
    "JSON": json.dumps(
        [
            {
                "id": number,
                "name": f"User {number}",
                "email": f"user{number}@example.com",
                "tags": ["new", "eu"],
            }
            for number in range(20)
        ]
    ),
    "JSON, indented": json.dumps([{"model": "gpt-4o", "limits": {"perDay": 5, "used": 3}}] * 15, indent=2),
    "JSON schema": json.dumps(
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather of a city today",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                },
            },
        },
        separators=(",", ":"),
    ),
    "log": "\n".join(
        f"2026-11-27T08:{minute:02}:13.{minute * 7:03}Z INFO  [worker-{minute % 4}] request id={minute * 7919} "
        f"path=/v1/evaluate status=200 took={minute * 3}ms"
        for minute in range(30)
    ),
    "numbers": "\n".join(",".join(f"{CHANCE.uniform(-99, 99):.3f}" for _ in range(6)) for _ in range(40)),
    "dates": "\n".join(f"2026-{month:02}-{day:02}T12:00:00Z" for month in range(1, 13) for day in (3, 17)),
    "URLs": "\n".join(
        f"https://www.example.com/products/{n}?ref=mail&utm_source=news" for n in range(100, 130)
    ),
    "table": "\n".join(f"| item_{n} | {n * 7} | The item number {n} of the list |" for n in range(40)),
}
STRANGE: dict[str, str] = {
    "base64": base64.b64encode(NOISE).decode(),
    "hex": NOISE.hex(),
    "hashes": "\n".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(40)),
    "emoji": "".join(CHANCE.choice("😀😂🤣😍🥰🔥🎉👍🚀🙏💯👀🥺😭🎂🌍🐶🍕") for _ in range(600)),
    "minified": "!function(e,t){var n=t.createElement('a');function r(e){return e.map(function(e){return e.id})}"
    "for(var i=0;i<e.length;i++){n.href=e[i].url,n.click&&n.click()}window.App={run:r,v:'1.2.3'}}(a,document);"
    * 5,
    "capitals": PROSE["English"].upper(),
    "one letter": "a" * 20_000,
    "one mark": "=" * 20_000,
    "spaces": " " * 20_000 + "x",
    "letters at random": "".join(CHANCE.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(5_000)),
    "a word without spaces, again and again": "hello" * 4_000,
}
KINDS = PROSE | CODE | DATA | STRANGE
OFF_MAX_PERCENT = 15
# Of one text of a hundred tokens, or of what nobody writes.
FURTHER_OFF_MAX_PERCENT = {
    "Turkish": 20,
    "Vietnamese": 25,
    "Russian": 20,
    "capitals": 18,
    "minified": 20,
    "a word without spaces, again and again": 60,
}


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_is_near_the_encodings_count(kind: str, name: str) -> None:
    counted = len(encoding(name).encode(KINDS[kind], disallowed_special=()))
    off_percent = 100 * (estimated(KINDS[kind], name) / counted - 1)
    assert abs(off_percent) <= FURTHER_OFF_MAX_PERCENT.get(kind, OFF_MAX_PERCENT), f"{off_percent:+.0f} %"


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
@pytest.mark.parametrize(
    ("kinds", "off_max_percent"), [(PROSE, 8), (CODE, 8), (DATA, 8)], ids=["prose", "code", "data"]
)
def test_estimates_are_off_in_both_directions(name: str, kinds: dict[str, str], off_max_percent: int) -> None:
    counted = sum(len(encoding(name).encode(text)) for text in kinds.values())
    off_percent = 100 * (sum(estimated(text, name) for text in kinds.values()) / counted - 1)
    assert abs(off_percent) <= off_max_percent, f"{off_percent:+.0f} %"


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_a_long_text_costs_what_its_parts_cost(name: str) -> None:
    text = "\n".join(KINDS.values())
    assert estimated(text, name) == pytest.approx(
        sum(estimated(part, name) for part in KINDS.values()), rel=0.02
    )


def seconds(text: str) -> float:
    """The best of some, of this process alone."""
    taken = []
    for _ in range(5):
        started = time.process_time()
        estimated(text, "o200k_base")
        taken.append(time.process_time() - started)
    return min(taken)


@pytest.mark.parametrize(
    "part",
    [
        " ",
        "a",
        "A",
        "a ",
        "\n",
        " \n",
        "\t",
        '"',
        "\x00",
        "你好世界",
        "e\u0301",
        "\ud800",
        "0",
        "Ignore this. ",
        "aB",
        "\u3000",
    ],
)
def test_no_text_takes_more_than_its_length_says(part: str) -> None:
    short, long = (part * (chars // len(part)) + "x" for chars in (20_000, 200_000))
    assert seconds(long) < 40 * seconds(short) + 0.005
    assert seconds(long) < 0.5


def test_any_character_has_a_weight() -> None:
    everything = "".join(map(chr, range(0x110000)))
    for name in ("o200k_base", "cl100k_base"):
        assert estimated(everything, name) > 0x110000 / 2
        assert estimated("", name) == 0
