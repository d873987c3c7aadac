"""Every word the page shows, in English and Russian."""

from __future__ import annotations

import re

from detection.names import printable

# The pictures of photos/, by file name without ending.
EXAMPLE_TEXTS = {
    "01-pistol-in-a-hand": {"en": "pistol in a hand", "ru": "пистолет в руке"},
    "02-knife-in-a-hand": {"en": "knife in a hand", "ru": "нож в руке"},
    "03-smartphone-in-a-hand": {"en": "smartphone in a hand", "ru": "смартфон в руке"},
    "04-wallet-in-a-hand": {"en": "wallet in a hand", "ru": "кошелёк в руке"},
    "05-banknotes-in-a-hand": {"en": "banknotes in a hand", "ru": "банкноты в руке"},
    "06-bank-card-in-a-hand": {"en": "bank card in a hand", "ru": "банковская карта в руке"},
    "07-pistol-smartphone-and-wallet": {
        "en": "pistol, smartphone and wallet on a table",
        "ru": "пистолет, смартфон и кошелёк на столе",
    },
    "08-kitchen-knife-card-and-mug": {
        "en": "kitchen knife, card and mug on a table",
        "ru": "кухонный нож, карта и кружка на столе",
    },
    "09-mug-nothing-to-find": {"en": "a mug: nothing to find", "ru": "кружка: находить нечего"},
    "10-knife-photo-stored-sideways": {
        "en": "knife, in a photo that was stored sideways",
        "ru": "нож на фото, сохранённом боком",
    },
    "11-coffee-nothing-to-find": {
        "en": "a cup of coffee: nothing to find",
        "ru": "чашка кофе: находить нечего",
    },
}

TEXTS = {
    # --- the frame of the page ---
    "title": {"en": "Weapon detector", "ru": "Поиск оружия на фото"},
    "subtitle": {
        "en": "Is there a weapon in this photo? Pistols and knives are marked, and told apart from phones, wallets, "
        "banknotes and bank cards.",
        "ru": "Есть ли на фото оружие? Пистолеты и ножи будут отмечены и отделены от смартфонов, кошельков, "
        "банкнот и банковских карт.",
    },
    "status_ready": {"en": "Detector ready", "ru": "Детектор готов"},
    "status_gone": {"en": "No detector", "ru": "Нет детектора"},
    "privacy": {
        "en": "Nothing is stored: photos stay in memory while this page is open and a few minutes longer, and only "
        "you see them.",
        "ru": "Ничего не сохраняется: фото хранятся в памяти, пока открыта страница, и ещё несколько минут, и видны "
        "только вам.",
    },
    "privacy_feedback": {
        "en": "Nothing is stored unless you send a correction: photos stay in memory while this page is open and a "
        "few minutes longer.",
        "ru": "Ничего не сохраняется, пока вы сами не отправите исправление: фото хранятся только в памяти, "
        "пока открыта страница, и ещё несколько минут.",
    },
    "privacy_events": {
        "en": "What cameras confirmed is kept for {days} days in the database of events, and deleted after that.",
        "ru": "То, что подтвердили камеры, хранится в базе событий (дней: {days}), затем удаляется.",
    },
    "uploads_refused": {
        "en": "Not every file was taken: the page held as many as it can. Remove some here, or try again in a few "
        "minutes.",
        "ru": "Приняты не все файлы: страница уже хранила столько, сколько может. Уберите здесь часть файлов или "
        "попробуйте снова через несколько минут.",
    },
    "uploads_forgotten": {
        "en": "Your files were let go after an hour in which nothing was done here. Remove them above and add them "
        "again.",
        "ru": "Ваши файлы удалены из памяти: час здесь ничего не происходило. Уберите их выше и добавьте снова.",
    },
    "tab_photos": {"en": "Photos", "ru": "Фото"},
    "tab_video": {"en": "Video", "ru": "Видео"},
    "tab_review": {"en": "Review", "ru": "Проверка"},
    "tab_model": {"en": "Model", "ru": "Модель"},
    "limits_title": {"en": "What the model cannot see", "ru": "Чего модель не видит"},
    "limits": {
        "en": "It learned from photos and video frames in which the object fills a good part of the picture. "
        "Small or distant objects, hidden ones (in a bag, under clothes), blurred and dark pictures, toys and "
        "unusual weapons are missed or mistaken. “None found” does not mean that there is no weapon, "
        "and a find is not proof of one: **a person must always look and decide.**",
        "ru": "Она училась на фото и кадрах видео, где предмет занимает заметную часть снимка. Мелкие и "
        "далёкие предметы, скрытые (в сумке, под одеждой), смазанные и тёмные снимки, игрушки и необычное "
        "оружие она пропускает или путает. «Не найдено» не значит, что оружия нет, а находка ещё не "
        "доказательство: **решать всегда должен человек.**",
    },
    # --- putting photos in ---
    "upload": {"en": "Your photos, one or many", "ru": "Ваши фото, одно или несколько"},
    "upload_drop": {"en": "or drop photos here", "ru": "или перетащите фото сюда"},
    "upload_formats": {
        "en": "JPEG, PNG, WebP, HEIC, AVIF, BMP, TIFF or GIF, up to {limit} MB each",
        "ru": "JPEG, PNG, WebP, HEIC, AVIF, BMP, TIFF или GIF, до {limit} МБ каждое",
    },
    "upload_button": {"en": "Choose photos", "ru": "Выбрать фото"},
    "upload_take": {"en": "Take or choose a photo", "ru": "Снять или выбрать фото"},
    "camera": {"en": "Take a photo with the camera", "ru": "Снять камерой"},
    "camera_label": {
        "en": "Point the camera and press the button",
        "ru": "Наведите камеру и нажмите кнопку",
    },
    "camera_shoot": {"en": "Take the photo", "ru": "Снять"},
    "camera_again": {"en": "Take another", "ru": "Снять другое"},
    "camera_allow": {
        "en": "Allow the browser to use the camera. It works at localhost or over https only; on a phone, choosing a photo "
        "offers its own camera too.",
        "ru": "Разрешите браузеру использовать камеру. Она работает только на localhost или по https; телефон и сам "
        "предложит снять фото при выборе файла.",
    },
    "camera_file": {"en": "camera photo.jpg", "ru": "снимок камеры.jpg"},
    "photos_twice": {
        "en": "The same photo put in twice is checked once. Left out: {count}.",
        "ru": "Одно и то же фото проверяется один раз. Пропущено повторов: {count}.",
    },
    "gallery": {"en": "No photo at hand? Try one of these", "ru": "Нет фото под рукой? Попробуйте эти"},
    # --- the answer ---
    "band_alarm": {"en": "POSSIBLE WEAPON: {found}", "ru": "ВОЗМОЖНО, ОРУЖИЕ: {found}"},
    "band_alarm_more": {
        "en": "A person must confirm: look yourself and decide.",
        "ru": "Должен подтвердить человек: посмотрите сами и решите.",
    },
    "band_unsure": {"en": "NOT SURE: look closely", "ru": "НЕТ УВЕРЕННОСТИ: посмотрите внимательно"},
    "band_none": {"en": "Nothing found", "ru": "Ничего не найдено"},
    "band_none_seen": {"en": "Only look-alikes: {found}.", "ru": "Только похожие предметы: {found}."},
    "band_failed": {"en": "NOT CHECKED: look yourself", "ru": "НЕ ПРОВЕРЕНО: посмотрите сами"},
    "tab_alarm": {"en": "POSSIBLE WEAPON", "ru": "ВОЗМОЖНО, ОРУЖИЕ"},
    "tab_unsure": {"en": "NOT SURE", "ru": "НЕТ УВЕРЕННОСТИ"},
    "missed": {
        "en": "No proof that there is none: weapons are missed in {missed} of 100 photos that show one (measured on "
        "{split}).",
        "ru": "Это не доказательство: оружие пропускается на {missed} из 100 фото, где оно есть (измерено: {split}).",
    },
    "missed_unmeasured": {
        "en": "No proof that there is none: how many weapons this model misses was never measured.",
        "ru": "Это не доказательство: сколько оружия пропускает эта модель, никто не измерял.",
    },
    "unsure_weapon": {"en": "Could be a {name}.", "ru": "Возможно, это {name}."},
    "unsure_rival": {
        "en": "Could be a {name}; the model would rather say {other}.",
        "ru": "Возможно, это {name}; модель скорее назвала бы это «{other}».",
    },
    "unsure_look": {"en": "Something may be there.", "ru": "Что-то здесь может быть."},
    "note_too_dark": {
        "en": "The picture is so dark that hardly anything can be seen.",
        "ru": "Снимок такой тёмный, что на нём почти ничего не видно.",
    },
    "note_blank": {
        "en": "The picture has one colour throughout: nothing can be seen.",
        "ru": "Снимок весь одного цвета: на нём ничего не видно.",
    },
    "note_partly_missing": {
        "en": "A part of the picture is missing: what was there cannot be seen.",
        "ru": "Часть снимка отсутствует: что там было, не видно.",
    },
    "note_other": {"en": "The picture is hard to judge.", "ru": "По этому снимку трудно судить."},
    "decimal_point": {"en": ".", "ru": ","},
    "csv_delimiter": {"en": ",", "ru": ";"},
    # --- how sure ---
    "sure_weak": {"en": "weak sign", "ru": "слабый признак"},
    "sure_likely": {"en": "likely", "ru": "вероятно"},
    "sure_strong": {"en": "strong sign", "ru": "сильный признак"},
    "sure_right": {
        "en": "{right} of 100 such marks were right",
        "ru": "верны {right} из 100 таких отметок",
    },
    "column_kind": {"en": "Kind", "ru": "Вид"},
    "kind_weapon": {"en": "weapon", "ru": "оружие"},
    "kind_lookalike": {"en": "look-alike", "ru": "похожее"},
    # --- many photos ---
    "many_alarm": {
        "en": "POSSIBLE WEAPON in {alarms} of {count} photos",
        "ru": "ВОЗМОЖНО, ОРУЖИЕ: {alarms} из {count} фото",
    },
    "many_unsure_title": {
        "en": "NOT SURE: look closely at {unsure} of {count} photos",
        "ru": "НЕТ УВЕРЕННОСТИ: посмотрите внимательно {unsure} из {count} фото",
    },
    "many_failed_title": {
        "en": "NOT CHECKED: {failed} of {count} photos",
        "ru": "НЕ ПРОВЕРЕНО: {failed} из {count} фото",
    },
    "many_none_title": {
        "en": "Nothing found in {count} photos",
        "ru": "Ничего не найдено, фото: {count}",
    },
    "many_none": {
        "en": "Nothing found in the others: {count}.",
        "ru": "На остальных ничего не найдено: {count}.",
    },
    "many_unsure": {"en": "Not sure: {count}.", "ru": "Нет уверенности: {count}."},
    "many_failed": {"en": "Not checked: {count}.", "ru": "Не проверено: {count}."},
    "many_waiting": {"en": "Still being checked: {count}.", "ru": "Ещё проверяется: {count}."},
    "counts": {"en": "Show only", "ru": "Показать только"},
    "count_alarm": {"en": "Alarm {count}", "ru": "Тревога {count}"},
    "count_unsure": {"en": "Not sure {count}", "ru": "Не уверена {count}"},
    "count_none": {"en": "Nothing {count}", "ru": "Ничего {count}"},
    "count_failed": {"en": "Failed {count}", "ru": "Сбой {count}"},
    "short_alarm": {"en": "weapon?", "ru": "оружие?"},
    "short_unsure": {"en": "not sure", "ru": "не уверена"},
    "short_none": {"en": "nothing found", "ru": "не найдено"},
    "short_failed": {"en": "not checked", "ru": "не проверено"},
    "short_waiting": {"en": "waiting", "ru": "ждёт"},
    "mark_seen": {"en": "Seen", "ru": "Просмотрено"},
    "mark_false_alarm": {"en": "False alarm", "ru": "Ложная тревога"},
    "earlier": {"en": "Back", "ru": "Назад"},
    "later": {"en": "More", "ru": "Ещё"},
    "grid_page": {"en": "{number} of {pages}", "ru": "{number} из {pages}"},
    "dialog": {"en": "One photo", "ru": "Одно фото"},
    "dialog_place": {"en": "{number} of {count}", "ru": "{number} из {count}"},
    "previous": {"en": "Previous", "ru": "Назад"},
    "next": {"en": "Next", "ru": "Дальше"},
    # --- one photo ---
    "alt_photo": {"en": "Photo {file}. {answer}", "ru": "Фото {file}. {answer}"},
    "alt_zoom": {"en": "Photo {file}, closer: {name}", "ru": "Фото {file}, крупнее: {name}"},
    "alt_crop": {"en": "Cut from {file}: {name}", "ru": "Фрагмент {file}: {name}"},
    "look_closer": {"en": "Look closer", "ru": "Крупнее"},
    "look_whole": {"en": "Whole photo", "ru": "Всё фото"},
    "look_help": {"en": "Show {name} large", "ru": "Показать крупно: {name}"},
    "details": {"en": "Scores and places", "ru": "Оценки и места"},
    "column_sure": {"en": "How sure", "ru": "Уверенность"},
    "column_score": {"en": "Score", "ru": "Оценка (score)"},
    "sensitivity": {"en": "Sensitivity", "ru": "Чувствительность"},
    "blur_shown": {
        "en": "Blur faces in the picture, never a weapon",
        "ru": "Размыть лица на снимке, но не оружие",
    },
    "blur_files": {
        "en": "Blur faces in pictures, never a weapon",
        "ru": "Размыть лица на снимках, но не оружие",
    },
    "blur_film": {
        "en": "Blur faces in the film, never a weapon",
        "ru": "Размыть лица в фильме, но не оружие",
    },
    "lookalikes_too": {"en": "Show look-alikes too", "ru": "Показывать и похожие предметы"},
    "weaker": {
        "en": "Also show weaker signs, from score",
        "ru": "Показывать и более слабые признаки, от оценки",
    },
    "weaker_help": {
        "en": "Further left, more boxes are shown, dashed. The answer stays the same, and the photo is not sent again.",
        "ru": "Чем левее, тем больше рамок, пунктиром. Ответ остаётся прежним, фото повторно не отправляется.",
    },
    "weaker_answer": {
        "en": "The answer does not follow this setting: it is given at the model’s own measured points.",
        "ru": "Ответ от этой настройки не зависит: он даётся по измеренным порогам самой модели.",
    },
    "cost_setting": {"en": "If the alarm began at", "ru": "Если бы тревога начиналась с"},
    "cost_here": {"en": "this setting, {score}", "ru": "этой настройки, {score}"},
    "cost_alarm": {"en": "the model’s own, {score}", "ru": "порога модели, {score}"},
    "cost_split": {"en": "Measured on", "ru": "Измерено"},
    "cost_found": {"en": "Photos with a weapon found", "ru": "Найдено фото с оружием"},
    "cost_false": {"en": "False alarms, photos without one", "ru": "Ложных тревог на фото без него"},
    "of_hundred": {"en": "{count} of 100", "ru": "{count} из 100"},
    "of_thousand": {"en": "{count} of 1,000", "ru": "{count} из 1000"},
    # --- files ---
    "download": {"en": "Download", "ru": "Скачать"},
    "download_jpeg": {"en": "Picture with boxes (JPEG)", "ru": "Снимок с рамками (JPEG)"},
    "download_png": {"en": "Picture with boxes (PNG)", "ru": "Снимок с рамками (PNG)"},
    "download_json": {"en": "Data (JSON)", "ru": "Данные (JSON)"},
    "download_csv": {"en": "Table (CSV)", "ru": "Таблица (CSV)"},
    "download_zip": {"en": "Download all (zip)", "ru": "Скачать всё (zip)"},
    "threshold_unmeasured": {
        "en": "This model has no measured operating point, so nothing is known about misses and false alarms.",
        "ru": "У этой модели нет измеренной рабочей точки: о пропусках и ложных тревогах ничего не известно.",
    },
    "split_val": {"en": "validation photos", "ru": "проверочные фото"},
    "split_test": {"en": "test photos", "ru": "тестовые фото"},
    "column_object": {"en": "Object", "ru": "Предмет"},
    "column_place": {"en": "Box, pixels (x1, y1, x2, y2)", "ru": "Рамка, пиксели (x1, y1, x2, y2)"},
    "timing": {
        "en": "{width} x {height} pixels, {ms} ms in the model",
        "ru": "{width} x {height} пикселей, {ms} мс в модели",
    },
    # --- progress and failures ---
    "checking": {"en": "Checking …", "ru": "Проверяется …"},
    "checking_many": {"en": "Checked {done} of {count}", "ru": "Проверено {done} из {count}"},
    "stop": {"en": "Stop", "ru": "Остановить"},
    "go_on": {"en": "Check the rest", "ru": "Проверить остальные"},
    "error_stopped": {
        "en": "You stopped the check before its turn.",
        "ru": "Вы остановили проверку до него.",
    },
    "start_over": {"en": "Start over", "ru": "Начать заново"},
    "retry": {"en": "Try again", "ru": "Повторить"},
    "error_waiting": {
        "en": "Not checked yet. This happens by itself, once the detector is back.",
        "ru": "Ещё не проверено. Проверка начнётся сама, как только детектор вернётся.",
    },
    "error_unreachable": {
        "en": "The detector cannot be reached at the moment. Your photos stay here and are checked as soon as it is "
        "back; there is nothing you need to do. If this lasts, ask whoever runs it whether the API is up.",
        "ru": "Детектор сейчас недоступен. Ваши фото останутся здесь и будут проверены, как только он вернётся; "
        "делать ничего не нужно. Если это надолго, спросите у администратора, запущен ли API.",
    },
    "error_not_ready": {
        "en": "The detector is still loading its model; this takes up to a minute. Your photos are checked as soon "
        "as it is ready.",
        "ru": "Детектор ещё загружает модель, это занимает до минуты. Ваши фото будут проверены, как только он "
        "будет готов.",
    },
    "error_busy": {
        "en": "The detector is busy with other photos. It is asked again by itself every few seconds.",
        "ru": "Детектор занят другими фото. Запрос повторяется сам каждые несколько секунд.",
    },
    "error_slow": {
        "en": "The answer took too long and was given up. Press “Try again”, or use a smaller photo.",
        "ru": "Ответ занял слишком много времени. Нажмите «Повторить» или возьмите фото поменьше.",
    },
    "error_file_too_large": {
        "en": "This file is too large: {size} MB. Save the photo smaller, or take a screenshot of it, and try that.",
        "ru": "Файл слишком большой: {size} МБ. Сохраните фото в меньшем размере или сделайте его снимок экрана.",
    },
    "error_too_many_pixels": {
        "en": "This photo has too many pixels. Save it smaller and try again.",
        "ru": "В этом фото слишком много пикселей. Сохраните его в меньшем размере и попробуйте снова.",
    },
    "error_not_an_image": {
        "en": "This file is not a photo that can be read, or it is damaged. Use a JPEG, PNG, WebP, HEIC or other photo "
        "file.",
        "ru": "Этот файл не является фото или повреждён. Возьмите файл JPEG, PNG, WebP, HEIC или другое фото.",
    },
    "error_key": {
        "en": "The detector wants a key and this page has none that it accepts. Whoever runs the page must set "
        "API_KEY to one of the API’s keys.",
        "ru": "Детектор требует ключ, а у страницы его нет или он неверен. Администратор страницы должен задать "
        "API_KEY, одно из значений API_KEYS.",
    },
    "error_version": {
        "en": "What answers at the detector’s address is not this version’s API. Whoever runs the page must check "
        "API_URL and that page and API are of one version.",
        "ru": "По адресу детектора отвечает не API этой версии. Администратор страницы должен проверить API_URL и "
        "то, что версии страницы и API совпадают.",
    },
    "error_other": {
        "en": "The detector could not check this: {detail} Press “Try again”.",
        "ru": "Детектор не смог это проверить. Нажмите «Повторить». Ответ детектора: {detail}",
    },
    "error_no_preview": {
        "en": "The photo was checked, but this page cannot draw files of this kind.",
        "ru": "Фото проверено, но страница не умеет рисовать файлы такого вида.",
    },
    # --- video ---
    "video_upload": {"en": "A short video", "ru": "Короткое видео"},
    "video_button": {"en": "Choose a file", "ru": "Выбрать файл"},
    "video_drop": {"en": "or drop a video here", "ru": "или перетащите видео сюда"},
    "video_formats": {
        "en": "MP4, MOV, WebM, MKV or AVI, up to {seconds} seconds. {rate} frames of each second are checked.",
        "ru": "MP4, MOV, WebM, MKV или AVI, до {seconds} секунд. Проверяется кадров в секунду: {rate}.",
    },
    "video_example": {"en": "Try an example clip", "ru": "Попробовать пример"},
    "video_example_file": {"en": "example.mp4", "ru": "пример.mp4"},
    "video_rule": {
        "en": "A single frame can be mistaken: an alarm needs the same object in {needed} of {window} frames. What is "
        "seen in fewer is “not sure”. Cameras are judged by the same rule.",
        "ru": "Один кадр может обмануть: для тревоги один и тот же предмет нужен в {needed} из {window} кадров. Если "
        "он виден реже, уверенности нет. Камеры судят по тому же правилу.",
    },
    "video_checking": {
        "en": "Checking the video: {time} of {duration}",
        "ru": "Проверка видео: {time} из {duration}",
    },
    "video_unsure": {"en": "Could be: {found}.", "ru": "Возможно, это: {found}."},
    "video_also_unsure": {"en": "Not sure: {found}.", "ru": "Нет уверенности: {found}."},
    "video_more": {"en": "and {count} more", "ru": "и ещё {count}"},
    "video_brief": {"en": "{words}, briefly: not sure", "ru": "{words}, мельком: нет уверенности"},
    "video_not_sure": {"en": "{words}: not sure", "ru": "{words}: нет уверенности"},
    "video_times": {"en": "Times to look at", "ru": "Что посмотреть"},
    "video_no_times": {"en": "No time to look at", "ru": "Смотреть нечего"},
    "short_note_too_dark": {"en": "too dark to see", "ru": "слишком темно"},
    "short_note_blank": {"en": "nothing can be seen", "ru": "ничего не видно"},
    "short_note_partly_missing": {"en": "a part is missing", "ru": "часть отсутствует"},
    "short_note_other": {"en": "hard to judge", "ru": "трудно судить"},
    "video_nothing": {
        "en": "No weapon found in any of the {count} frames checked.",
        "ru": "Оружие не найдено ни в одном из проверенных кадров ({count}).",
    },
    "video_partial": {
        "en": "Only the first {time} were checked so far.",
        "ru": "Пока проверены только первые {time}.",
    },
    "video_strip": {
        "en": "The film as a strip: orange where a weapon is possible, yellow where nobody can be sure. The same times "
        "stand as buttons.",
        "ru": "Видео как полоса: оранжевым отмечено возможное оружие, жёлтым то, в чём нет уверенности. Те же моменты "
        "есть в виде кнопок.",
    },
    "video_time": {"en": "Time", "ru": "Время"},
    "video_answer": {"en": "Answer", "ru": "Ответ"},
    "video_alarm": {"en": "possible weapon", "ru": "возможно, оружие"},
    "video_unsure_short": {"en": "not sure", "ru": "нет уверенности"},
    "video_none": {"en": "nothing found", "ru": "ничего не найдено"},
    "video_alt": {"en": "Frame at {time}. {answer}", "ru": "Кадр {time}. {answer}"},
    "video_clip_making": {"en": "Drawing the boxes into the film…", "ru": "Рамки рисуются на видео…"},
    "video_clip_download": {"en": "Download the clip (MP4)", "ru": "Скачать ролик (MP4)"},
    "video_clip_alt": {"en": "The video with boxes drawn in", "ru": "Видео с нарисованными рамками"},
    "error_video_too_large": {
        "en": "The video's picture is larger than 4K. Export it at 1080p and try again.",
        "ru": "Кадр видео больше 4K. Сохраните его в 1080p и попробуйте снова.",
    },
    "error_not_a_video": {
        "en": "This file is not a video that can be read, or it is damaged. Use an MP4, MOV, WebM, MKV or AVI file.",
        "ru": "Этот файл не является видео или повреждён. Возьмите файл MP4, MOV, WebM, MKV или AVI.",
    },
    "error_video_too_long": {
        "en": "This video is longer than {seconds} seconds. Cut it shorter and try again.",
        "ru": "Это видео длиннее {seconds} секунд. Обрежьте его и попробуйте снова.",
    },
    # --- reviewing what cameras confirmed ---
    "review_empty": {
        "en": "No camera has confirmed anything yet. An event appears here by itself, within seconds of its alarm.",
        "ru": "Камеры пока ничего не подтвердили. Событие появится здесь само, через считаные секунды после тревоги.",
    },
    "review_done": {
        "en": "Nothing is waiting for you: every event was looked at. A new one appears here by itself.",
        "ru": "Ничто не ждёт решения: все события просмотрены. Новое появится здесь само.",
    },
    "review_none_so": {
        "en": "No event is like this. Choose another filter, or all of them.",
        "ru": "Таких событий нет. Выберите другой фильтр или все события.",
    },
    "review_states": {"en": "Which events", "ru": "Какие события"},
    "review_open": {"en": "Open {count}", "ru": "Ждут {count}"},
    "review_confirmed": {"en": "Weapon {count}", "ru": "Оружие {count}"},
    "review_dismissed": {"en": "No weapon {count}", "ru": "Не оружие {count}"},
    "review_all": {"en": "All {count}", "ru": "Все {count}"},
    "review_filter": {"en": "Filter", "ru": "Фильтр"},
    "review_filter_on": {"en": "Filter: {what}", "ru": "Фильтр: {what}"},
    "review_kinds": {"en": "Kind", "ru": "Вид"},
    "review_alarm": {"en": "Alarm", "ru": "Тревога"},
    "review_unsure": {"en": "Not sure", "ru": "Нет уверенности"},
    "review_lens": {"en": "Lens", "ru": "Объектив"},
    "review_camera": {"en": "Camera", "ru": "Камера"},
    "review_every_camera": {"en": "all cameras", "ru": "все камеры"},
    "review_day": {"en": "Day", "ru": "День"},
    "review_every_day": {"en": "all days", "ru": "все дни"},
    "review_new": {"en": "New event: show the newest", "ru": "Новое событие: показать последнее"},
    "review_seen": {
        "en": "Camera {camera}, {when}. Seen in {frames} frames, {lasted} s.",
        "ru": "Камера {camera}, {when}. Видно на кадрах: {frames}, {lasted} с.",
    },
    "review_quiet": {"en": "In the quiet hours: nobody was told.", "ru": "Тихие часы: никого не извещали."},
    "review_was_confirmed": {"en": "WEAPON CONFIRMED: {name}", "ru": "ОРУЖИЕ ПОДТВЕРЖДЕНО: {name}"},
    "review_was_dismissed": {"en": "No weapon, it was said", "ru": "Признано: не оружие"},
    "review_said": {"en": "By {by}, {when}.", "ru": "Решение: {by}, {when}."},
    "review_said_why": {"en": "By {by}, {when}: {why}", "ru": "Решение: {by}, {when}: {why}"},
    "review_confirm": {"en": "Weapon", "ru": "Оружие"},
    "review_confirm_help": {"en": "Confirm: it is a weapon", "ru": "Подтвердить: это оружие"},
    "review_dismiss": {"en": "No weapon", "ru": "Не оружие"},
    "review_dismiss_help": {"en": "Dismiss: it is no weapon", "ru": "Отклонить: это не оружие"},
    "review_next": {"en": "Older", "ru": "Раньше"},
    "review_previous": {"en": "Newer", "ru": "Позже"},
    "review_place": {"en": "{number} of {count}", "ru": "{number} из {count}"},
    "review_short_confirmed": {"en": "{name}, confirmed", "ru": "{name}, подтверждено"},
    "review_short_dismissed": {"en": "no weapon", "ru": "не оружие"},
    "review_name": {"en": "Your name, kept with each decision", "ru": "Ваше имя, хранится с каждым решением"},
    "review_why": {"en": "Why (may stay empty)", "ru": "Почему (необязательно)"},
    "review_name_first": {
        "en": "Write your name first: it is kept with the decision. Nothing was decided.",
        "ru": "Сначала напишите своё имя: оно хранится вместе с решением. Решение не принято.",
    },
    "review_kept_confirmed": {
        "en": "Kept: a weapon, camera {camera}, {when}.",
        "ru": "Записано: оружие, камера {camera}, {when}.",
    },
    "review_kept_dismissed": {
        "en": "Kept: no weapon, camera {camera}, {when}.",
        "ru": "Записано: не оружие, камера {camera}, {when}.",
    },
    "review_undo": {"en": "Undo", "ru": "Отменить"},
    "review_undone": {
        "en": "Taken back: the event is open again.",
        "ru": "Отменено: событие снова ждёт решения.",
    },
    "review_first_confirmed": {
        "en": "{by} was first and said: a weapon. Your answer was not kept; look again before you change it.",
        "ru": "{by}: решение уже принято, это оружие. Ваш ответ не записан; посмотрите ещё раз, прежде чем менять его.",
    },
    "review_first_dismissed": {
        "en": "{by} was first and said: no weapon. Your answer was not kept; look again before you change it.",
        "ru": "{by}: решение уже принято, это не оружие. Ваш ответ не записан; посмотрите ещё раз, прежде чем менять "
        "его.",
    },
    "review_first_open": {
        "en": "Somebody has taken the earlier answer back. Yours was not kept; look again.",
        "ru": "Прежнее решение кто-то отменил. Ваш ответ не записан; посмотрите ещё раз.",
    },
    "review_gone": {
        "en": "This event was deleted meanwhile: events are kept for {days} days.",
        "ru": "Это событие тем временем удалено: события хранятся дней: {days}.",
    },
    "review_no_picture": {
        "en": "The picture of this event is missing or damaged. It can still be confirmed or dismissed.",
        "ru": "Снимок этого события отсутствует или повреждён. Событие всё равно можно подтвердить или отклонить.",
    },
    "review_alt": {
        "en": "Camera {camera}, {when}, best frame. {answer}",
        "ru": "Камера {camera}, {when}, лучший кадр. {answer}",
    },
    "review_before": {"en": "{seconds} s before", "ru": "за {seconds} с до"},
    "review_after": {"en": "{seconds} s after", "ru": "через {seconds} с"},
    "review_facts": {"en": "Scores and model", "ru": "Оценки и модель"},
    "review_median": {"en": "Score that confirmed it", "ru": "Оценка, подтвердившая событие"},
    "review_best": {"en": "Score of this frame", "ru": "Оценка этого кадра"},
    "review_points": {"en": "Alarm from, not sure from", "ru": "Тревога от, неуверенность от"},
    "review_model": {"en": "Model", "ru": "Модель"},
    "review_weights": {"en": "Weights (SHA-256)", "ru": "Веса (SHA-256)"},
    "review_span": {"en": "From, to", "ru": "С, по"},
    "lens_black": {"en": "picture is black", "ru": "чёрный кадр"},
    "lens_covered": {"en": "lens is covered", "ru": "объектив закрыт"},
    "lens_frozen": {"en": "picture is frozen", "ru": "кадр застыл"},
    "lens_now": {
        "en": "Camera {camera} sees nothing since {when}: its {what}. Go and look at it.",
        "ru": "Камера {camera} ничего не видит с {when}: {what}. Проверьте её на месте.",
    },
    "lens_was": {
        "en": "{what}, for {minutes} min",
        "ru": "{what}, минут: {minutes}",
    },
    "export": {
        "en": "Teach the next model with what was reviewed",
        "ru": "Обучить следующую модель на проверенном",
    },
    "export_none": {
        "en": "Nothing was reviewed yet. What you confirm becomes a picture with its box, what you dismiss a picture "
        "without a weapon.",
        "ru": "Пока ничего не проверено. Подтверждённое станет снимком с рамкой, отклонённое станет снимком без оружия.",
    },
    "export_counts": {
        "en": "{confirmed} pictures with a weapon and {dismissed} without would be written, from {cameras} cameras:",
        "ru": "Будет записано снимков с оружием: {confirmed}, без оружия: {dismissed}; камер: {cameras}.",
    },
    "export_file": {"en": "Picture", "ru": "Снимок"},
    "export_as": {"en": "What it teaches", "ru": "Чему учит"},
    "export_negative": {"en": "no weapon", "ru": "нет оружия"},
    "export_more": {"en": "and {count} more", "ru": "и ещё {count}"},
    "export_part": {
        "en": "The file holds the newest {count} only; watch.py export writes all of them.",
        "ru": "В файл войдут только последние снимки: {count}; watch.py export записывает все.",
    },
    "export_download": {"en": "Download as a data set (zip)", "ru": "Скачать как набор данных (zip)"},
    "export_train": {
        "en": "Unpack it beside the other data, and train with both:",
        "ru": "Распакуйте рядом с другими данными и обучайте на тех и других:",
    },
    "events_address": {
        "en": "The database of events has no address that can be understood. Whoever runs the page must set "
        "WATCH_EVENTS to a file, or to an address such as postgresql+psycopg://user:password@host/database.",
        "ru": "Адрес базы событий непонятен. Администратор страницы должен задать в WATCH_EVENTS файл или адрес вида "
        "postgresql+psycopg://user:password@host/database.",
    },
    "events_busy": {
        "en": "The database of events is busy: another program holds it. It is tried again by itself.",
        "ru": "База событий занята другой программой. Попытка повторится сама.",
    },
    "events_full": {
        "en": "The disk of the database of events is full, so nothing can be kept. Whoever runs it must make room.",
        "ru": "Диск базы событий заполнен, записать ничего нельзя. Администратор должен освободить место.",
    },
    "events_gone": {
        "en": "The database of events cannot be reached. It is tried again by itself; if this lasts, whoever runs "
        "the page must check WATCH_EVENTS.",
        "ru": "База событий недоступна. Попытка повторится сама; если это надолго, администратор страницы должен "
        "проверить WATCH_EVENTS.",
    },
    "events_read-only": {
        "en": "The database of events may be read only, so nothing can be decided here. Whoever runs the page must "
        "let it write there.",
        "ru": "База событий доступна только для чтения, принять решение здесь нельзя. Администратор страницы должен "
        "разрешить запись.",
    },
    "events_unreadable": {
        "en": "What WATCH_EVENTS names is no database of events, or it is damaged. Whoever runs the page must check "
        "it; the page's log says more.",
        "ru": "То, что задано в WATCH_EVENTS, не база событий, или она повреждена. Администратор страницы должен "
        "проверить её; подробности в журнале страницы.",
    },
    # --- the model ---
    "model_unknown": {
        "en": "What the model is and can do appears here once the detector answers.",
        "ru": "Сведения о модели появятся здесь, когда детектор ответит.",
    },
    "model_served": {
        "en": "**{name}**, version {version}, in use since {loaded}.",
        "ru": "**{name}**, версия {version}, работает с {loaded}.",
    },
    "model_no_version": {"en": "without a number (from a folder)", "ru": "без номера (из папки)"},
    "model_watch_error": {
        "en": "A newer version could not be loaded; this one stays in use. Reason: {reason}",
        "ru": "Новую версию загрузить не удалось, работает прежняя. Причина: {reason}",
    },
    "model_right": {"en": "How often is it right?", "ru": "Как часто она права?"},
    "people": {
        "en": "Of 100 photos with a weapon: {caught} raise the alarm, {unsure} more are “not sure”, {missed} are missed.",
        "ru": "Из 100 фото с оружием: тревога на {caught}, ещё {unsure} — «не уверена», пропущено {missed}.",
    },
    "false_alarms": {
        "en": "false alarms in 1,000 photos without a weapon",
        "ru": "ложных тревог на 1000 фото без оружия",
    },
    "model_rule": {
        "en": "The alarm begins at score {score}, chosen on {split} by this rule: {rule}.",
        "ru": "Тревога начинается с оценки {score}. Выбрана так ({split}): {rule}.",
    },
    "target_kept": {
        "en": "On {split} the target of {limit} is **kept**.",
        "ru": "Цель {limit} **выполнена** ({split}).",
    },
    "target_missed": {
        "en": "On {split} the target of {limit} is **missed**.",
        "ru": "Цель {limit} **не выполнена** ({split}).",
    },
    "target_unsure": {
        "en": "On {split} there are more than the target of {limit}, but so few that it **may be chance**.",
        "ru": "Ложных тревог больше цели {limit} ({split}), но **возможно, случайно**.",
    },
    "model_setting": {"en": "At which setting?", "ru": "При какой настройке?"},
    "model_setting_how": {
        "en": "The further up, the more weapons are caught; the further right, the more false alarms. "
        "Both points are fixed for this model. Validation photos chose them and so look a little too good.",
        "ru": "Чем выше, тем больше оружия поймано; чем правее, тем больше ложных тревог. "
        "Обе точки у модели заданы. Они выбраны на проверочных фото, поэтому там результат чуть завышен.",
    },
    "point_alarm": {"en": "alarm", "ru": "тревога"},
    "point_unsure": {"en": "not sure", "ru": "не уверена"},
    "curve_point": {"en": "Answer from here on", "ru": "Ответ с этой точки"},
    "model_mixups": {"en": "What does it mix up? ({split})", "ru": "Что она путает? ({split})"},
    "mixups_name": {"en": "What each object was called", "ru": "Чем названы предметы"},
    "column_boxes": {"en": "Boxes", "ru": "Рамок"},
    "column_called": {"en": "called {name}", "ru": "названо: {name}"},
    "mixups_how": {
        "en": "Shares of each row, boxes below them, at score {score}. The first row are boxes on things that are none of "
        "these. Each object counts once, by the best box on it.",
        "ru": "Доли в каждой строке, под ними число рамок, при оценке {score}. Первая строка: рамки там, где ничего из "
        "этого нет. Каждый предмет считается один раз, по лучшей рамке на нём.",
    },
    "model_which": {"en": "Which model?", "ru": "Какая модель?"},
    "column_version": {"en": "Version", "ru": "Версия"},
    "column_made": {"en": "Made", "ru": "Создана"},
    "column_on": {"en": "Measured on", "ru": "Измерена на"},
    "column_run": {"en": "Training", "ru": "Обучение"},
    "version_folder": {"en": "from a folder", "ru": "из папки"},
    "version_served": {"en": "answers now", "ru": "отвечает сейчас"},
    "version_run": {"en": "its run", "ru": "запуск"},
    "measure_map": {"en": "mAP (COCO)", "ru": "mAP (COCO)"},
    "measure_original": {"en": "mAP (original project’s way)", "ru": "mAP (как в исходном проекте)"},
    "measure_caught": {"en": "Weapon photos caught", "ru": "Поймано фото с оружием"},
    "measure_false": {"en": "False alarms per 1,000", "ru": "Ложных тревог на 1000"},
    "versions_how": {
        "en": "Below each figure its 95% interval. Figures of different photos cannot be compared.",
        "ru": "Под числом — 95%-й интервал. Числа по разным фото сравнивать нельзя.",
    },
    "compare_one": {"en": "Compare", "ru": "Сравнить"},
    "compare_other": {"en": "with", "ru": "с"},
    "compare_name": {"en": "Two versions compared", "ru": "Сравнение двух версий"},
    "compare_nothing": {
        "en": "Choose two versions that were measured on the same photos.",
        "ru": "Выберите две версии, измеренные на одних и тех же фото.",
    },
    "compare_how": {
        "en": "Both on {split}. Better or worse is said only where the 95% intervals do not overlap.",
        "ru": "Обе: {split}. «Лучше» или «хуже» сказано, только если 95%-е интервалы не пересекаются.",
    },
    "column_difference": {"en": "Difference", "ru": "Разница"},
    "difference_none": {"en": "may be chance", "ru": "возможно, случайность"},
    "difference_better": {"en": "better", "ru": "лучше"},
    "difference_worse": {"en": "worse", "ru": "хуже"},
    "difference_unknown": {"en": "no interval", "ru": "нет интервала"},
    "metric_lookalikes": {
        "en": "Look-alikes with any box on them that says weapon: {rate} (the table counts the best box only)",
        "ru": "Похожие предметы, на которых хоть одна рамка говорит «оружие»: {rate} (в таблице считается только "
        "лучшая)",
    },
    "metric_as_lookalikes": {
        "en": "Weapons called a look-alike, and a weapon by no box: {rate}",
        "ru": "Оружие, названное похожим предметом и ни одной рамкой оружием: {rate}",
    },
    "model_interval": {"en": "95% interval {low} to {high}", "ru": "95%-й интервал от {low} до {high}"},
    "model_intervals": {
        "en": "The 95% intervals come from drawing the {recordings} recordings again, not single photos: frames of "
        "one video look alike.",
        "ru": "95-процентные интервалы получены повторными выборками {recordings} съёмок, а не отдельных фото: "
        "кадры одного видео похожи.",
    },
    "model_images": {
        "en": "Counted on {split}: {weapon_images} photos with a weapon, {weapon_free_images} without.",
        "ru": "Подсчитано ({split}): {weapon_images} фото с оружием, {weapon_free_images} без него.",
    },
    "rule_false_alarms": {
        "en": "as many photos with a weapon caught as can be, with at most {limit} false alarms per 1,000 photos "
        "without one",
        "ru": "как можно больше пойманных фото с оружием при не более чем {limit} ложных тревогах на 1000 фото без "
        "него",
    },
    "rule_surely": {
        "en": ", and the upper end of the 95% interval counts",
        "ru": ", причём считается верхняя граница 95-процентного интервала",
    },
    "rule_as_measured": {
        "en": ", as measured: the photos are too few to be surer",
        "ru": " по измерению: для большей уверенности фото слишком мало",
    },
    "model_precision_recall": {
        "en": "Precision against recall ({split})",
        "ru": "Точность и полнота ({split})",
    },
    "model_precision_recall_alt": {
        "en": "One curve for each class: the share of its boxes that are right over the share of objects found",
        "ru": "По кривой на класс: доля верных рамок в зависимости от доли найденных предметов",
    },
    "curve_recall_of_boxes": {"en": "objects found (recall)", "ru": "найдено предметов (полнота)"},
    "curve_precision_of_boxes": {"en": "boxes that are right (precision)", "ru": "верных рамок (точность)"},
    "column_truth": {"en": "What it really was", "ru": "Что это на самом деле"},
    "confusion_nothing": {"en": "nothing of these", "ru": "ничего из этого"},
    "confusion_missed": {"en": "not found", "ru": "не найдено"},
    "model_learned": {"en": "Photos for training and validation", "ru": "Фото для обучения и проверки"},
    "column_split": {"en": "Used for", "ru": "Для чего"},
    "data_train": {"en": "training", "ru": "обучение"},
    "data_val": {"en": "validation", "ru": "проверка"},
    "column_photos": {"en": "Photos", "ru": "Фото"},
    "column_without": {"en": "with none of these", "ru": "без этих предметов"},
    "origin_roots": {"en": "Data folders", "ru": "Папки данных"},
    "model_curve_alt": {
        "en": "Share of photos with a weapon that raise the alarm over false alarms per 1,000 photos without one, "
        "with the model's two points",
        "ru": "Доля пойманных фото с оружием в зависимости от ложных тревог на 1000 фото без него, с двумя точками "
        "модели",
    },
    "curve_recall": {"en": "weapon photos caught", "ru": "поймано фото с оружием"},
    "curve_false_alarms": {"en": "false alarms per 1,000 photos", "ru": "ложных тревог на 1000 фото"},
    "model_classes": {"en": "Class by class", "ru": "По классам"},
    "column_ap": {"en": "AP, {split}", "ru": "AP, {split}"},
    "column_ap50": {"en": "AP at IoU 0.50, {split}", "ru": "AP при IoU 0,50, {split}"},
    "column_rests_on": {"en": "Boxes, {chosen}", "ru": "Рамок, {chosen}"},
    "column_threshold": {"en": "Its best score, {chosen}", "ru": "Лучшая оценка, {chosen}"},
    "column_precision": {"en": "Right there, {chosen}", "ru": "Верных при ней, {chosen}"},
    "column_recall": {"en": "Found there, {chosen}", "ru": "Найдено при ней, {chosen}"},
    "model_all": {"en": "Every figure", "ru": "Все числа"},
    "figures_search": {"en": "Look for a figure", "ru": "Найти показатель"},
    "figures_found": {"en": "{count} of {total} figures", "ru": "{count} из {total} показателей"},
    "figures_csv": {"en": "All as a table (CSV)", "ru": "Всё таблицей (CSV)"},
    "column_metric": {"en": "Figure", "ru": "Показатель"},
    "column_value": {"en": "Value", "ru": "Значение"},
    "origin_libraries": {"en": "Versions of libraries", "ru": "Версии библиотек"},
    "model_data": {"en": "Data and origin", "ru": "Данные и происхождение"},
    "origin_architecture": {"en": "Network", "ru": "Сеть"},
    "origin_input": {"en": "Input size, pixels", "ru": "Размер входа, пиксели"},
    "origin_created": {"en": "Trained", "ru": "Обучена"},
    "origin_commit": {"en": "Code (git commit)", "ru": "Код (git commit)"},
    "origin_fingerprint": {"en": "Data fingerprint (SHA-256)", "ru": "Отпечаток данных (SHA-256)"},
    "origin_source": {"en": "Loaded from", "ru": "Загружена из"},
    # --- corrections ---
    "feedback": {"en": "Something is wrong here", "ru": "Здесь ошибка"},
    "feedback_intro": {
        "en": "Say what each box really shows. The corrected photo can teach the next model.",
        "ru": "Укажите, что на самом деле в каждой рамке. Исправленное фото поможет обучить следующую модель.",
    },
    "feedback_really": {"en": "{name} {score} is really", "ru": "{name} {score} на самом деле"},
    "feedback_nothing": {"en": "nothing of these", "ru": "ничего из этого"},
    "feedback_missed": {"en": "Something was missed", "ru": "Что-то пропущено"},
    "feedback_missed_what": {"en": "What was missed", "ru": "Что пропущено"},
    "feedback_across": {"en": "From left to right, % of the width", "ru": "Слева направо, % ширины"},
    "feedback_down": {"en": "From top to bottom, % of the height", "ru": "Сверху вниз, % высоты"},
    "feedback_preview": {"en": "The photo, to draw a box on", "ru": "Фото, на котором рисуют рамку"},
    "feedback_consent": {
        "en": "I may pass this photo on, and agree that it is kept on the computer that runs this page, to train the "
        "model. Faces that are found are blurred first, as the picture above shows.",
        "ru": "Я вправе передать это фото и даю согласие хранить его для обучения модели на компьютере, где работает "
        "эта страница. Найденные лица сначала размываются, как на снимке выше.",
    },
    "feedback_draw": {
        "en": "Draw a box around it on the picture, with mouse or finger.",
        "ru": "Обведите его рамкой на снимке мышью или пальцем.",
    },
    "feedback_no_box": {
        "en": "There is no box yet: draw one around what was missed.",
        "ru": "Рамки ещё нет: обведите то, что пропущено.",
    },
    "feedback_kept": {"en": "The picture that would be kept", "ru": "Снимок, который будет сохранён"},
    "feedback_kept_faces": {
        "en": "This picture would be kept. Faces blurred: {faces}; never what lies in a box.",
        "ru": "Будет сохранён этот снимок. Размыто лиц: {faces}; внутри рамок ничего не размывается.",
    },
    "feedback_send": {"en": "Keep the correction", "ru": "Сохранить исправление"},
    "feedback_thanks": {
        "en": "Kept for {days} days; faces blurred: {faces}. Thank you.",
        "ru": "Сохранено на {days} дн., размыто лиц: {faces}. Спасибо.",
    },
    "feedback_failed": {
        "en": "The correction could not be kept: {detail}. Whoever runs the page must check FEEDBACK_DIR.",
        "ru": "Не удалось сохранить исправление: {detail}. Администратор страницы должен проверить FEEDBACK_DIR.",
    },
}


def text(language: str, key: str, **values: object) -> str:
    """Return the text of that key in language, with values filled in.

    Raises:
        KeyError: there is no such text, language or value.
    """
    return TEXTS[key][language].format(**values)


def example_name(stem: str, language: str) -> str:
    """Return a gallery picture in words, by its file's name without ending."""
    return EXAMPLE_TEXTS.get(stem, {}).get(language, stem.lstrip("0123456789-").replace("-", " "))


MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#!|~$:&]|^[-+]|^\d+(?=\.)")
# What Streamlit's Markdown makes of words even where they are escaped: links, icons and emoji, dashes and arrows.
MAGIC = re.compile(
    r"(?:https?|ftp|mailto):|www(?=\.)|[^\s@]@(?=\S)|:(?=[\w+/-]+:)|[-<>=~](?=[-<>=~])", re.IGNORECASE
)
JOINER = "\N{WORD JOINER}"  # shows nothing, and keeps such words apart


def markdown_safe(words: str) -> str:
    """Return words from outside (a file, a folder, a model's card, an error) so that Markdown shows them as they are."""
    apart = MAGIC.sub(rf"\g<0>{JOINER}", " ".join(printable(words).split()))
    return MARKDOWN.sub(lambda mark: mark[0] + JOINER if mark[0].isdigit() else f"\\{mark[0]}", apart)
