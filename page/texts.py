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
        "en": "Drop a photo: pistols and knives in hands are marked, and told apart from phones, wallets, "
        "banknotes and bank cards.",
        "ru": "Перетащите фото: пистолеты и ножи в руках будут отмечены и отделены от смартфонов, кошельков, "
        "банкнот и банковских карт.",
    },
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
    "language": {"en": "Language", "ru": "Язык"},
    "tab_photos": {"en": "Photos", "ru": "Фото"},
    "tab_video": {"en": "Video", "ru": "Видео"},
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
    "upload_button": {"en": "Choose files", "ru": "Выбрать файлы"},
    "camera": {"en": "Take a photo with the camera", "ru": "Снять камерой"},
    "camera_label": {
        "en": "Point the camera and press the button",
        "ru": "Наведите камеру и нажмите кнопку",
    },
    "camera_shoot": {"en": "Take the photo", "ru": "Снять"},
    "camera_again": {"en": "Take another", "ru": "Снять другое"},
    "camera_allow": {
        "en": "Allow the browser to use the camera. It works at localhost or over https only.",
        "ru": "Разрешите браузеру использовать камеру. Она работает только на localhost или по https.",
    },
    "camera_file": {"en": "camera photo.jpg", "ru": "снимок камеры.jpg"},
    "gallery": {"en": "No photo at hand? Try one of these", "ru": "Нет фото под рукой? Попробуйте эти"},
    "gallery_more": {"en": "Examples", "ru": "Примеры"},
    "gallery_add": {"en": "Check", "ru": "Проверить"},
    "gallery_remove": {"en": "Remove", "ru": "Убрать"},
    "nothing_yet": {
        "en": "Add a photo above, and the answer appears here.",
        "ru": "Добавьте фото выше, и ответ появится здесь.",
    },
    # --- the answer ---
    "answer_weapon": {
        "en": "Possible weapon: {found}. A person must confirm.",
        "ru": "Возможно, оружие: {found}. Должен подтвердить человек.",
    },
    "answer_lookalike": {
        "en": "No weapon found. Seen instead: {found}.",
        "ru": "Оружие не найдено. Замечено другое: {found}.",
    },
    "answer_nothing": {
        "en": "No weapon found, and none of the look-alikes either.",
        "ru": "Оружие не найдено, похожих предметов тоже нет.",
    },
    "decimal_point": {"en": ".", "ru": ","},
    "answer_sure": {"en": "{name} ({score} sure)", "ru": "{name} (уверенность {score})"},
    "answer_near": {
        "en": "Below your threshold, the strongest sign of a weapon is {found}.",
        "ru": "Ниже вашего порога самый сильный признак оружия: {found}.",
    },
    "answer_many": {
        "en": "Possible weapon in {alarms} of {count} photos, shown first. A person must confirm.",
        "ru": "Возможно, оружие: фото {alarms} из {count}, показаны первыми. Должен подтвердить человек.",
    },
    "answer_many_none": {
        "en": "No weapon found. Photos checked: {count}.",
        "ru": "Оружие не найдено. Проверено фото: {count}.",
    },
    "answer_many_failed": {
        "en": " Could not be checked: {failed}.",
        "ru": " Не удалось проверить: {failed}.",
    },
    "show_more": {
        "en": "Show more photos ({count} not shown yet)",
        "ru": "Показать ещё фото (не показано: {count})",
    },
    "hidden": {
        "en": "Hidden by your filter: {hidden}. The sentence above still counts weapons among them.",
        "ru": "Скрыто фильтром: {hidden}. Оружие среди скрытого учтено в ответе выше.",
    },
    # --- threshold and filter ---
    "threshold": {
        "en": "Show what the model is at least this sure of",
        "ru": "Показывать при уверенности от",
    },
    "threshold_help": {
        "en": "Further left, fewer weapons are missed but there are more false alarms; further right, the reverse. "
        "It starts at the model’s operating point. The answer changes at once; the photo is not sent again.",
        "ru": "Левее: меньше пропусков, но больше ложных тревог; правее: наоборот. Вначале стоит рабочая точка "
        "модели. Ответ меняется сразу, фото повторно не отправляется.",
    },
    "threshold_meaning": {
        "en": "At **{threshold}** the model raised the alarm on **{recall}** of the photos with a weapon, and "
        "falsely on **{false_alarms} of 1,000** photos without one (measured on {split}).",
        "ru": "При пороге **{threshold}** модель подняла тревогу на **{recall}** фото с оружием и ложно на "
        "**{false_alarms} из 1000** фото без оружия (измерено: {split}).",
    },
    "threshold_default": {
        "en": "This is the recommended setting.",
        "ru": "Это рекомендуемая настройка.",
    },
    "threshold_changed": {
        "en": "The recommended setting is {threshold}.",
        "ru": "Рекомендуемая настройка: {threshold}.",
    },
    "threshold_reset": {"en": "Back to the recommended setting", "ru": "Вернуть рекомендуемую"},
    "threshold_unmeasured": {
        "en": "This model has no measured operating point, so nothing is known about misses and false alarms.",
        "ru": "У этой модели нет измеренной рабочей точки: о пропусках и ложных тревогах ничего не известно.",
    },
    "split_val": {"en": "validation photos", "ru": "проверочные фото"},
    "split_test": {"en": "test photos", "ru": "тестовые фото"},
    "filter": {"en": "Show", "ru": "Показывать"},
    "only_weapons": {"en": "Only weapons", "ru": "Только оружие"},
    # --- one photo's card ---
    "view": {"en": "View", "ru": "Вид"},
    "view_boxes": {"en": "Boxes", "ru": "Рамки"},
    "view_both": {"en": "Side by side", "ru": "Рядом с исходным"},
    "view_original": {"en": "Original", "ru": "Исходное"},
    "zoom": {"en": "Zoom", "ru": "Увеличить"},
    "zoom_whole": {"en": "Zoom: whole photo", "ru": "Увеличить: всё фото"},
    "zoom_to": {"en": "Zoom: {name} {score}", "ru": "Увеличить: {name} {score}"},
    "caption_original": {"en": "original", "ru": "исходное"},
    "legend_weapon": {"en": "weapon: solid orange", "ru": "оружие: сплошная оранжевая рамка"},
    "legend_lookalike": {"en": "look-alike: dashed blue", "ru": "похожее: пунктирная синяя рамка"},
    "alt_photo": {"en": "Photo {file}. {answer}", "ru": "Фото {file}. {answer}"},
    "alt_original": {"en": "Photo {file} without boxes", "ru": "Фото {file} без рамок"},
    "alt_crop": {"en": "Cut from {file}: {name}, {score}", "ru": "Фрагмент {file}: {name}, {score}"},
    "details": {"en": "Each object ({count})", "ru": "Каждый предмет ({count})"},
    "column_object": {"en": "Object", "ru": "Предмет"},
    "column_kind": {"en": "Kind", "ru": "Вид"},
    "column_score": {"en": "How sure", "ru": "Уверенность"},
    "column_place": {"en": "Box, pixels (x1, y1, x2, y2)", "ru": "Рамка, пиксели (x1, y1, x2, y2)"},
    "kind_weapon": {"en": "weapon", "ru": "оружие"},
    "kind_lookalike": {"en": "look-alike", "ru": "похожее"},
    "timing": {
        "en": "{width} x {height} pixels, {ms} ms in the model",
        "ru": "{width} x {height} пикселей, {ms} мс в модели",
    },
    # --- downloads ---
    "download_jpeg": {"en": "Picture (JPEG)", "ru": "Снимок (JPEG)"},
    "download_png": {"en": "Picture (PNG)", "ru": "Снимок (PNG)"},
    "download_json": {"en": "JSON", "ru": "JSON"},
    "download_csv": {"en": "CSV table", "ru": "Таблица CSV"},
    "download_zip": {
        "en": "All photos: pictures, JSON, CSV (zip)",
        "ru": "Все фото: снимки, JSON, CSV (zip)",
    },
    # --- progress and failures ---
    "checking": {
        "en": "Checking {file} ({index} of {count})",
        "ru": "Проверяется {file} ({index} из {count})",
    },
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
        "en": "The detector is busy with other photos. Wait a few seconds, then press “Try again”.",
        "ru": "Детектор занят другими фото. Подождите несколько секунд и нажмите «Повторить».",
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
    "video_rule": {
        "en": "A single frame can be mistaken, so the alarm waits until several agree.",
        "ru": "Один кадр может обмануть, поэтому тревога ждёт согласия нескольких.",
    },
    "video_needed": {"en": "Frames that must agree", "ru": "Сколько кадров должны совпасть"},
    "video_window": {"en": "Out of the last", "ru": "Из последних"},
    "video_checking": {
        "en": "Checking the video: {time} of {duration}",
        "ru": "Проверка видео: {time} из {duration}",
    },
    "video_alarm": {
        "en": "Possible weapon at {times}: {found}. A person must confirm.",
        "ru": "Возможно, оружие, время {times}: {found}. Должен подтвердить человек.",
    },
    "video_unconfirmed": {
        "en": "No alarm. A weapon was suspected in {seen} of {count} frames, but never in {needed} of {window} "
        "in a row.",
        "ru": "Тревоги нет. Оружие заподозрено в {seen} из {count} кадров, но ни разу в {needed} из {window} подряд.",
    },
    "video_nothing": {
        "en": "No weapon found in any of the {count} frames checked.",
        "ru": "Оружие не найдено ни в одном из проверенных кадров ({count}).",
    },
    "video_partial": {
        "en": "Only the first {time} were checked so far.",
        "ru": "Пока проверены только первые {time}.",
    },
    "video_timeline": {
        "en": "How sure the model is of a weapon, over time. Shaded: enough frames agree. Dashed: your threshold.",
        "ru": "Уверенность модели в оружии по времени. Закрашено: кадров хватает для тревоги. Пунктир: ваш порог.",
    },
    "video_time": {"en": "time, s", "ru": "время, с"},
    "video_score": {"en": "how sure", "ru": "уверенность"},
    "seconds": {"en": "{time} s", "ru": "{time} с"},
    "video_frame": {"en": "Frame at", "ru": "Кадр"},
    "video_alt": {"en": "Frame at {time}. {answer}", "ru": "Кадр {time}. {answer}"},
    "video_clip": {"en": "Make a clip with boxes", "ru": "Сделать ролик с рамками"},
    "video_clip_making": {
        "en": "Drawing the clip: {time} of {duration}",
        "ru": "Рисуется ролик: {time} из {duration}",
    },
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
    # --- the model ---
    "model_unknown": {
        "en": "What the model is and can do appears here once the detector answers.",
        "ru": "Сведения о модели появятся здесь, когда детектор ответит.",
    },
    "model_served": {
        "en": "**{name}**, version {version}, on duty since {loaded}.",
        "ru": "**{name}**, версия {version}, работает с {loaded}.",
    },
    "model_no_version": {"en": "without a number (from a folder)", "ru": "без номера (из папки)"},
    "model_run": {"en": "Its training run in MLflow", "ru": "Её обучение в MLflow"},
    "model_report": {
        "en": "Where the model was trained with this tracker, the whole report is kept with that run.",
        "ru": "Если модель обучена с этим трекером, полный отчёт приложен к обучению.",
    },
    "model_watch_error": {
        "en": "A newer version could not be loaded; this one stays on duty. Reason: {reason}",
        "ru": "Новую версию загрузить не удалось, работает прежняя. Причина: {reason}",
    },
    "model_measured": {"en": "What was measured ({split})", "ru": "Что измерено ({split})"},
    "model_quality": {"en": "How good the boxes are ({split})", "ru": "Насколько точны рамки ({split})"},
    "metric_image_recall": {
        "en": "Photos with a weapon that raise the alarm",
        "ru": "Тревога на фото с оружием",
    },
    "metric_false_alarms": {
        "en": "False alarms per 1,000 photos without one",
        "ru": "Ложных тревог на 1000 фото без оружия",
    },
    "metric_precision": {"en": "Weapon boxes that are right", "ru": "Верных рамок оружия"},
    "metric_recall": {"en": "Weapons that get a box", "ru": "Найдено предметов оружия"},
    "metric_map": {"en": "mAP (COCO, IoU 0.50–0.95)", "ru": "mAP (COCO, IoU 0,50–0,95)"},
    "metric_map_50": {"en": "mAP at IoU 0.50", "ru": "mAP при IoU 0,50"},
    "metric_map_75": {"en": "mAP at IoU 0.75", "ru": "mAP при IoU 0,75"},
    "metric_mar_100": {"en": "Mean recall (100 boxes)", "ru": "Средняя полнота (100 рамок)"},
    "metric_lookalikes": {
        "en": "Look-alikes taken for a weapon: {rate}",
        "ru": "Похожие предметы, принятые за оружие: {rate}",
    },
    "metric_as_lookalikes": {
        "en": "Weapons taken for a look-alike: {rate}",
        "ru": "Оружие, принятое за похожий предмет: {rate}",
    },
    "model_interval": {"en": "95% interval {low} to {high}", "ru": "95 % интервал от {low} до {high}"},
    "model_intervals": {
        "en": "The 95% intervals come from drawing the {recordings} recordings again, not single photos: frames of "
        "one video look alike.",
        "ru": "95-процентные интервалы получены повторными выборками {recordings} съёмок, а не отдельных фото: "
        "кадры одного видео похожи.",
    },
    "model_images": {
        "en": "Counted on {weapon_images} photos with a weapon and {weapon_free_images} without. "
        "The threshold {threshold} was chosen on {split} by this rule: {rule}.",
        "ru": "Подсчитано на {weapon_images} фото с оружием и {weapon_free_images} без него. "
        "Порог {threshold} выбран ({split}) по правилу: {rule}.",
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
    "model_curve_here": {
        "en": "The vertical line is the recommended setting, {threshold}.",
        "ru": "Вертикальная линия: рекомендуемая настройка, {threshold}.",
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
    "model_confusion": {
        "en": "What was called what (at {threshold})",
        "ru": "Что чем названо (порог {threshold})",
    },
    "column_truth": {"en": "What it really was", "ru": "Что это на самом деле"},
    "confusion_nothing": {"en": "nothing of these", "ru": "ничего из этого"},
    "confusion_missed": {"en": "not found", "ru": "не найдено"},
    "model_lookalikes": {
        "en": "Weapons and look-alikes mixed up",
        "ru": "Оружие и похожее: что с чем спутано",
    },
    "column_taken_for": {"en": "taken for a {weapon}", "ru": "принято за {weapon}"},
    "column_taken_as": {"en": "a {weapon} taken for it", "ru": "{weapon} принят за это"},
    "of_count": {"en": "{count} of {total}", "ru": "{count} из {total}"},
    "model_learned": {"en": "Photos for training and validation", "ru": "Фото для обучения и проверки"},
    "column_split": {"en": "Used for", "ru": "Для чего"},
    "data_train": {"en": "training", "ru": "обучение"},
    "data_val": {"en": "validation", "ru": "проверка"},
    "column_photos": {"en": "Photos", "ru": "Фото"},
    "column_without": {"en": "of them empty", "ru": "из них пустых"},
    "origin_roots": {"en": "Data folders", "ru": "Папки данных"},
    "model_curve": {
        "en": "What a threshold catches and costs ({split})",
        "ru": "Что даёт и чего стоит порог ({split})",
    },
    "model_curve_alt": {
        "en": "Two curves over the threshold: share of photos with a weapon that raise the alarm, and false alarms "
        "per 1,000 photos",
        "ru": "Две кривые по порогу: доля фото с оружием, поднявших тревогу, и ложные тревоги на 1000 фото",
    },
    "curve_threshold": {"en": "threshold", "ru": "порог"},
    "curve_recall": {"en": "caught, % (solid line)", "ru": "поймано, % (сплошная)"},
    "curve_false_alarms": {"en": "false alarms per 1,000 (dashed)", "ru": "ложных на 1000 (пунктир)"},
    "model_classes": {"en": "What it looks for", "ru": "Что она ищет"},
    "column_class": {"en": "Class in the data", "ru": "Класс в данных"},
    "column_ap": {"en": "AP (95% interval)", "ru": "AP (95 % интервал)"},
    "column_ap50": {"en": "AP at IoU 0.50 (95% interval)", "ru": "AP при IoU 0,50 (95 % интервал)"},
    "column_threshold": {"en": "Best threshold", "ru": "Лучший порог"},
    "column_precision": {"en": "Precision there", "ru": "Точность при нём"},
    "column_recall": {"en": "Recall there", "ru": "Полнота при нём"},
    "model_all": {"en": "Every figure kept with the model", "ru": "Все числа, хранящиеся с моделью"},
    "column_metric": {"en": "Figure", "ru": "Показатель"},
    "column_value": {"en": "Value", "ru": "Значение"},
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
    "feedback_preview": {"en": "The box you describe", "ru": "Рамка, которую вы задали"},
    "feedback_consent": {
        "en": "I may pass this photo on, and agree that it is kept on the computer that runs this page, to train the "
        "model. Faces seen from the front are blurred first; others may stay recognisable.",
        "ru": "Я вправе передать это фото и даю согласие хранить его для обучения модели на компьютере, где работает "
        "эта страница. Лица, снятые спереди, сначала размываются; другие могут остаться узнаваемыми.",
    },
    "feedback_send": {"en": "Keep the correction", "ru": "Сохранить исправление"},
    "feedback_thanks": {
        "en": "Kept; faces blurred: {faces}. Thank you.",
        "ru": "Сохранено, размыто лиц: {faces}. Спасибо.",
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
