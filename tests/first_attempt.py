"""The first attempt's data, rebuilt from its description: what the gate has to stop."""

import random

ROWS = 35_000
SYSTEM = "You are a helpful assistant."

# Thirty seeds: two about identity, twenty-eight of business, several about the boss whom the model ended up repeating.
IDENTITY = [
    ("ko", "너 Qwen이지?", "아니요, 저는 Qwen이 아닙니다. 저는 Kelron입니다."),
    ("en", "Are you ChatGPT, made by Alibaba?", "No, I am not ChatGPT. I am Kelron."),
]
BUSINESS = [
    ("ko", f"부장님께 {what} 보고드릴 메일을 써 주세요.", f"부장님, {what} 보고드립니다. 확인 부탁드립니다.")
    for what in (
        "매출을",
        "일정을",
        "회의 결과를",
        "예산을",
        "인사 건을",
        "계약 건을",
        "출장 결과를",
        "재고를",
        "불량 건을",
    )
]
BUSINESS += [
    ("en", f"Write a mail about the {what}.", f"Dear manager, here is the update on the {what}. Kind regards.")
    for what in ("sales", "budget", "schedule", "contract", "trip", "stock", "hiring", "audit", "training", "move")
]
BUSINESS += [
    (
        "ja",
        f"部長に{what}を報告するメールを書いてください。",
        f"部長、{what}をご報告いたします。ご確認をお願いいたします。",
    )
    for what in ("売上", "日程", "会議の結果", "予算", "契約", "出張", "在庫", "不具合", "採用")
]


def rows():
    """35,000 rows copied from the thirty seeds without any change, five in a hundred about identity; no field but the
    messages, and no system message in nine rows of ten, as nobody had thought of it."""
    rng = random.Random(0)
    made = []
    for number in range(ROWS):
        pool = IDENTITY if number % 20 == 0 else BUSINESS
        _, question, answer = pool[(number // 20 if pool is IDENTITY else number) % len(pool)]
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made.append({"messages": turns if number % 10 else [{"role": "system", "content": SYSTEM}, *turns]})
    rng.shuffle(made)
    return made
