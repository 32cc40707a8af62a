// Pictures in the browser: read, cut to a square, and back from base64.

const LARGEST = 1024; // pixels a side; the model's own are far fewer

/** Read a file as a square picture: {blob, url, side}. Raises words for what is no picture. */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "This"} is no picture that the browser can read.`);
  }
  const cut = Math.min(bitmap.width, bitmap.height);
  const side = Math.min(cut, LARGEST);
  const ready = file.type === "image/png" && bitmap.width === side && bitmap.height === side;
  const blob = ready ? file : await cropped(bitmap, cut, side);
  bitmap.close();
  return { blob, url: URL.createObjectURL(blob), side };
}

async function cropped(bitmap, cut, side) {
  const canvas = new OffscreenCanvas(side, side);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; // under what is transparent
  pen.fillRect(0, 0, side, side);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, (bitmap.width - cut) / 2, (bitmap.height - cut) / 2, cut, cut, 0, 0, side, side);
  return canvas.convertToBlob({ type: "image/png" });
}

/** Return the bytes of a base64 text as a blob. */
export function fromBase64(text, type = "image/png") {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}

/** Return the picture of a data URL as a blob. */
export function fromDataUrl(url) {
  const [head, text] = url.split(",");
  return fromBase64(text, head.slice("data:".length).split(";")[0]);
}

/** Return a blob as a data URL. */
export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
