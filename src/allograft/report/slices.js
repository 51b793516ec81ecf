document.querySelectorAll("[data-slices]").forEach(function (stack) {
  var images = stack.querySelectorAll("img"), slider = stack.querySelector("input[type=range]"), where = stack.querySelector("output");
  var show = function () {
    images.forEach(function (image, number) { image.hidden = String(image.dataset.at || number) !== slider.value; });
    where.textContent = images[slider.value].dataset.place;
    slider.setAttribute("aria-valuetext", where.textContent);
  };
  slider.addEventListener("input", show);
  stack.querySelector("label").hidden = false;
  show();
});
